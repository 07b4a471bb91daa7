"""Many runs and one table: jobs in processes of their own, what they cost, and how they compare."""
