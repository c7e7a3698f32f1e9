"""The paper's protocol as one command: `python -m faceprotect_core evaluate`.

data.py     whose photos: pairs of one person, targets with a second photo; the paper's folders as they are
methods.py  what is compared: the method, its ablations, its reconstruction alone, noise-based baselines
trial.py    one photo under one method: protect it, and what every recogniser says about it
run.py      all of them: resumable, deterministic, on one machine or with Ray
rates.py    from similarities to rates at false accept rates
results.py  all of it in one place, as CSV and JSON
tables.py   and as Markdown
plots.py    pictures of them
"""
