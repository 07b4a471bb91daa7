"""One process of a run in several, for test_processes.py: python processes_worker.py JSON.

The JSON object has `launch` (arguments of `launch.find`), `config`, `workdir`, `out`, and optionally `terminate_at`
(this process gets SIGTERM after that step), `pause` (seconds after every step) and `silence` (of `peers.session`).
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # from a checkout that is not installed


def main(given):
    from absl import logging

    from bdf_jax import launch, peers
    from bdf_jax.config import from_dict
    from bdf_jax.errors import BdfError

    logging.set_verbosity(logging.WARNING)
    try:
        with peers.session(launch.find(**given["launch"]), silence_seconds=given.get("silence", 60), start_seconds=100):
            work(given, from_dict(given["config"]))
    except BdfError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def work(given, config):
    from bdf_jax.data.records import Records
    from bdf_jax.training import loop

    one, several, add, read = Records.encoded, Records.encoded_all, loop.Watch.add, set()

    def noted_one(self, position):
        read.add(str(self.index.names[position]))
        return one(self, position)

    def noted_several(self, positions):
        read.update(self.index.names[list(positions)].tolist())
        return several(self, positions)

    def added(self, step, metrics):
        add(self, step, metrics)
        if step == given.get("terminate_at"):
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(given.get("pause", 0))

    Records.encoded, Records.encoded_all, loop.Watch.add = noted_one, noted_several, added
    try:
        rows = loop.run(config, given["workdir"])
    finally:
        Path(given["out"]).write_text(json.dumps({"read": sorted(read)}))
    Path(given["out"]).write_text(json.dumps({"read": sorted(read), "rows": rows}))


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
