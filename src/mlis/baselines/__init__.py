"""What the method is compared with, each in one file, trained on the same split by the same rules.

A baseline is a frozen dataclass of its settings. `fit` trains it on a
:class:`~mlis.data.dataset.TrainingSplit`, which holds no test row, and gives something with
`scores`. `candidates` trains every setting that the baseline leaves open, so that one of them can
be chosen on validation classes. :mod:`mlis.baselines.protocol` does that, and tests once.
"""
