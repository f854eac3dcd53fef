"""A search for schedules: ``supervise`` keeps ``search`` alive, ``database`` what it found."""
