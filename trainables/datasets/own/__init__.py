"""Data of the user's own, `data=own data_dir=FOLDER`: one layout a task, which OWN.md one folder up shows.

Loaders return the same classes as those of the public sets, so that whatever reads these reads one's own too. Nothing
in here is imported by what it imports: the classes are in `kinds.py`, `graphs.py` and `packed_graphs.py`.
"""
