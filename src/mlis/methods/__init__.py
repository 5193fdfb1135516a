"""What the method is compared with, each in one file, trained on the same split by the same rules.

A baseline is a frozen dataclass of its settings, a :class:`~mlis.methods.base.Baseline`. It says
how it is trained on a :class:`~mlis.data.dataset.TrainingSplit`, which holds no test row, to give
something with `scores`, and which `alternatives` it leaves open. :mod:`mlis.methods.protocol`
trains them all, chooses one on validation classes, and tests it once.
"""
