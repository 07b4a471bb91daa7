"""Published trees on disk -> what is in them, checked before anything is read: what the readers of data sets share."""
