"""Sums over the rows of each class."""

from torch import Tensor


def sum_by_class(rows: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Sum the (n, D) rows of each class, (C, D), bit for bit reproducibly on every device.

    On a GPU `index_add_` adds in an order that varies between runs; a matrix product does not.
    """
    if rows.device.type != "cpu":
        return _one_hot_product(rows, labels, num_classes)
    return rows.new_zeros(num_classes, rows.shape[1]).index_add_(0, labels, rows)


def _one_hot_product(rows: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    one_hot = rows.new_zeros(num_classes, len(rows))
    return one_hot.scatter_(0, labels[None], 1.0) @ rows
