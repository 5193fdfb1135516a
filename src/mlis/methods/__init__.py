"""Systems that can be trained: MLIS and those it is compared with, behind one interface.

A method is a frozen dataclass of its settings, a :class:`~mlis.methods.base.Method`. Its `fit`
takes a :class:`~mlis.data.dataset.TrainingSplit`, which holds no test row, and returns a
:class:`~mlis.pipeline.Trained`, whose recognizer can be saved, served and exported whatever the
method. Its `choose` (:mod:`mlis.protocol`) chooses open settings and the calibration constant on
validation classes, and trains with them on all training rows. :mod:`mlis.methods.registry` names
all methods.
"""
