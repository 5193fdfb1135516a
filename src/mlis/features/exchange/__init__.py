"""Labelled images and boxes in the plain files of other tools; one module per format.

Readers give :class:`~mlis.features.exchange.records.Annotated` images, one after the other, and
:class:`~mlis.features.images.files.Bad` records; :mod:`mlis.features.exchange.formats` knows them.
"""
