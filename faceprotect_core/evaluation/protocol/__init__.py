"""The paper's protocol as one command: `python -m faceprotect_core evaluate`.

data.py     whose photos: pairs of one person, targets with a second photo; the paper's folders as they are
methods.py  what is compared: the method, its ablations, its reconstruction alone, noise-based baselines
change.py   one photo under one method: as it leaves it, and how visible that is
trial.py    what every recogniser says about that photo, after every processing
run.py      all of them: resumable, deterministic, on one machine or with Ray
rates.py    from similarities to rates at false accept rates
copies.py   whether two protected photos of a person are still one person
results.py  all of it in one place, to pick from, as CSV and JSON
tables.py   and as Markdown; main_table.py has the paper's table, purification.py those of what survives, rows.py the
            parts of all three
plots.py    pictures of them
"""
