"""Systems that can be trained: MLIS and those it is compared with, behind one interface.

A method is a frozen dataclass of its settings, a :class:`~mlis.methods.base.Method`. Its `fit`
takes a :class:`~mlis.data.dataset.TrainingSplit`, which holds no test row, and returns a
:class:`~mlis.model.recognizer.Recognizer`, which can be saved, served and exported whatever the
method. :mod:`mlis.methods.registry` names all methods; :mod:`mlis.methods.protocol` chooses a
method's open settings on validation classes, retrains, and tests once.
"""
