"""Size of the report of a WikiText-2 run, the time to write it, and the time until it can be used.

    python -m benchmarks.report [RUN]

Without a run, four variants of 370,000 made-up tokens are reported on. Needs chromium and Playwright's Python package.
Time nothing else on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from dynlm.evaluation.score_file import scores_of_run, write_scores
from dynlm.report.page import report_run
from tests.browser import Opened, started
from tests.synthetic_scores import synthetic_scores

_READY = "performance.getEntriesByName('ready')[0]?.startTime ?? null"


def made_up(folder: Path) -> list[Path]:
    """Four variants of made-up score files whose losses are as unlike each other as real ones."""
    rng, paths = np.random.default_rng(0), []
    for index, variant in enumerate(synthetic_scores(60, ("level 1", "sgd", "rms", "meta"), seed=1, tokens=5200)):
        nats = np.maximum(0.001, variant.nats + rng.gamma(1.0, 0.5, len(variant))).astype(np.float32)
        paths.append(folder / f"{index}.parquet")
        write_scores(paths[-1], replace(variant, nats=nats))
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", type=Path, help="a run whose score files to take")
    parser.add_argument("--times", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = scores_of_run(options.run) if options.run else made_up(Path(folder))
        written = []
        for _ in range(options.times):
            start = time.perf_counter()
            page = report_run(paths, Path(folder) / "report.html")
            written.append(time.perf_counter() - start)
        ready, requests = [], 0
        with started() as browser:
            for _ in range(options.times):
                opened = Opened(browser, page)
                ready.append(opened.page.evaluate(_READY) / 1000)
                requests += len(opened.requests) - 1  # The file itself is one.
                assert opened.messages == [], opened.messages
                opened.close()
        print(
            json.dumps(
                {
                    "files": len(paths),
                    "megabytes": page.stat().st_size / 1e6,
                    "seconds to write": statistics.median(written),
                    "seconds until it can be used": statistics.median(ready),
                    "slowest": max(ready),
                    "requests": requests,
                },
                indent=2,
            )
        )


if __name__ == "__main__":
    main()
