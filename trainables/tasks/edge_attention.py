"""Attention along the links of a graph without a tensor of links times channels, forwards and backwards.

A head is a sparse matrix of coefficients times the states; what goes back to the coefficients is the product of two
dense matrices, sampled where there are links. Memory is m h + n h c numbers where gathering takes m h c.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fairsweep.trainables.tasks.sparse import SparseMatrix, dropout


def edge_attention(
    receiver: Tensor, sender: Tensor, values: Tensor, graph: SparseMatrix, drop: float, slope: float
) -> Tensor:
    """(n, h, c): the mean of `values` (n, h, c) over the entries of each row of `graph`, weighted for each of h heads
    by the softmax of LeakyReLU(receiver_i + sender_j); both (n, h). drop: of a coefficient, others are scaled up.

    graph: (n, n), without an empty row; its entries do not matter.
    """
    keep = None
    if drop > 0:
        keep = dropout(values.new_ones(receiver.shape[1], graph.nnz), drop)
    return _Attention.apply(receiver.T.contiguous(), sender.T.contiguous(), values, graph, keep, slope)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        receiver: Tensor,
        sender: Tensor,
        values: Tensor,
        graph: SparseMatrix,
        keep: Tensor | None,
        slope: float,
    ) -> Tensor:
        rows, columns = graph.rows, graph.columns
        heads = [values[:, h].contiguous() for h in range(values.shape[1])]
        weights, outs = [], []
        for h, states in enumerate(heads):
            score = receiver[h].index_select(0, rows) + sender[h].index_select(0, columns)
            score = torch.where(score > 0, score, slope * score)
            # The largest of a row changes nothing but what overflows.
            weight = (score - graph.row_max(score).index_select(0, rows)).exp_()
            weight *= graph.row_sum(weight).reciprocal_().index_select(0, rows)
            weights.append(weight)
            used = weight if keep is None else weight * keep[h]
            outs.append(graph.with_values(used) @ states)
        weight, out = torch.stack(weights), torch.stack(outs, 1)
        ctx.graph, ctx.slope = graph, slope
        ctx.save_for_backward(receiver, sender, values, weight, out, keep)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        receiver, sender, values, weight, out, keep = ctx.saved_tensors
        graph, slope = ctx.graph, ctx.slope
        rows, columns = graph.rows, graph.columns
        back = torch.empty_like(values)
        to_receiver, to_sender = torch.empty_like(receiver), torch.empty_like(sender)
        inner = (grad * out).sum(-1)  # what the softmax takes off each row: the mean of its gradients
        for h in range(values.shape[1]):
            above = grad[:, h].contiguous()
            used = weight[h] if keep is None else weight[h] * keep[h]
            back[:, h] = graph.turned(used) @ above
            rise = graph.sampled(above, values[:, h])
            if keep is not None:
                rise *= keep[h]
            rise = (rise - inner[:, h].index_select(0, rows)).mul_(weight[h])
            positive = receiver[h].index_select(0, rows) + sender[h].index_select(0, columns) > 0
            rise = torch.where(positive, rise, slope * rise)
            to_receiver[h] = graph.row_sum(rise)
            to_sender[h] = torch.zeros_like(to_sender[h]).index_add_(0, columns, rise)
        return to_receiver, to_sender, back, None, None, None
