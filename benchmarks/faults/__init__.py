"""Random faults of real training processes: the end state of each run, beside that of a run left alone."""
