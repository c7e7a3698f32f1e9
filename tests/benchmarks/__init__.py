"""Time and memory of the method against the release's formulation: `python -m tests.benchmarks --help`. Offline, with
random weights in the real shapes; docs/PERFORMANCE.md is what it printed."""
