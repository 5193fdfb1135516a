"""Stage 1 as the field's scripts write it: what our fast path is measured against.

Concatenated inputs, a double backward for the gradient penalty, one noise draw a batch, float32,
PyTorch's default Adam, pytorch-metric-learning's circle loss on `[h ; a_y]`. Same mathematics as
`mlis`; `tests/project/test_textbook.py` shows that the losses agree.
"""

import torch
from pytorch_metric_learning.losses import CircleLoss
from torch import Tensor, nn

from mlis.config import Config
from mlis.encoder.trainer import RefinementTrainer
from mlis.generators.wgan_gp.trainer import AdversarialTrainer
from mlis.model.preprocessing import TrainingTensors


def two_layers(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, outputs))


def normal_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


class TextbookStageOne:
    """Generator, critic and encoder with one step of each."""

    def __init__(self, data: TrainingTensors, config: Config):
        self.data, self.config = data, config
        dx, da = data.x.shape[1], data.descriptors.shape[1]
        g, r = config.generation, config.refinement
        self.generator = nn.Sequential(two_layers(g.noise + da, g.hidden, dx), nn.ReLU())
        self.critic = two_layers(dx + da, g.hidden, 1)
        self.encoder = nn.Sequential(nn.Linear(dx, r.hidden), nn.ReLU())
        self.head = nn.Linear(r.hidden, data.num_classes)
        for network in (self.generator, self.critic, self.encoder, self.head):
            network.to(data.x).apply(normal_weights)
        betas = (g.beta1, g.beta2)
        self.adam_g = torch.optim.Adam(self.generator.parameters(), g.learning_rate, betas)
        self.adam_d = torch.optim.Adam(self.critic.parameters(), g.learning_rate, betas)
        self.adam_e = torch.optim.Adam(
            [*self.encoder.parameters(), *self.head.parameters()], r.learning_rate, betas
        )
        self.metric = CircleLoss(m=r.margin, gamma=r.gamma)

    def fake(self, labels: Tensor) -> Tensor:
        a = self.data.descriptors[labels]
        z = torch.randn(len(labels), self.config.generation.noise, device=a.device, dtype=a.dtype)
        return self.generator(torch.cat((z, a), 1))

    def critic_losses(
        self, real: Tensor, fake: Tensor, labels: Tensor, alpha: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(E[D(x̃)] − E[D(x)], penalty) with the penalty by double backward."""
        a = self.data.descriptors[labels]
        distance = self.critic(torch.cat((fake, a), 1)) - self.critic(torch.cat((real, a), 1))
        between = (alpha * real + (1 - alpha) * fake).requires_grad_()
        (gradient,) = torch.autograd.grad(
            self.critic(torch.cat((between, a), 1)).sum(), between, create_graph=True
        )
        penalty = ((gradient.norm(2, dim=1) - 1) ** 2).mean()
        return distance.mean(), self.config.generation.penalty * penalty

    def draw_rows(self) -> Tensor:
        size, device = self.config.generation.batch_size, self.data.y.device
        return torch.randint(len(self.data.y), (size,), device=device)

    def critic_step(self) -> Tensor:
        rows = self.draw_rows()
        real, labels = self.data.x[rows], self.data.y[rows]
        with torch.no_grad():
            fake = self.fake(labels)
        self.adam_d.zero_grad()
        alpha = torch.rand(len(rows), 1, device=real.device, dtype=real.dtype)
        loss = sum(self.critic_losses(real, fake, labels, alpha))
        assert isinstance(loss, Tensor)
        loss.backward()
        self.adam_d.step()
        return loss.detach()

    def generator_loss(self, labels: Tensor) -> Tensor:
        """−E[D(G(z, a), a)] with fresh noise."""
        fake = self.fake(labels)
        return -self.critic(torch.cat((fake, self.data.descriptors[labels]), 1)).mean()

    def generator_step(self) -> Tensor:
        labels = self.data.y[self.draw_rows()]
        self.adam_g.zero_grad()
        loss = self.generator_loss(labels)
        loss.backward()
        self.adam_g.step()
        return loss.detach()

    def encoder_losses(self, rows: Tensor, fakes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(metric loss on `[h ; a_y]`, class-balanced cross-entropy) of real rows and fakes."""
        r = self.config.refinement
        x, y = self.data.x[rows], self.data.y[rows]
        h = self.encoder(x)
        embeddings = torch.cat((h, r.semantic_scale * self.data.descriptors[y]), 1)
        logits = torch.cat((self.head(h), self.head(self.encoder(fakes))))
        both = torch.cat((y, labels))
        weights = 1.0 / torch.bincount(both, minlength=self.data.num_classes).to(x)[both]
        each = nn.functional.cross_entropy(logits, both, reduction="none")
        return self.metric(embeddings, y), (each * weights).sum() / weights.sum()

    def encoder_step(self, rows: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            fakes = self.fake(labels)
        self.adam_e.zero_grad()
        metric, cross_entropy = self.encoder_losses(rows, fakes, labels)
        loss = metric + self.config.refinement.cross_entropy_weight * cross_entropy
        loss.backward()
        self.adam_e.step()
        return loss.detach()

    def step(self, rows: Tensor, labels: Tensor) -> None:
        """A whole step of stage 1: critic updates, generator, encoder."""
        for _ in range(self.config.generation.critic_steps):
            self.critic_step()
        self.generator_step()
        self.encoder_step(rows, labels)

    def copy_weights(self, ours: AdversarialTrainer, refinement: RefinementTrainer) -> None:
        """Take over the weights of the fast path, to compare losses."""
        with torch.no_grad():
            for layers, first, second, bias in (
                (
                    self.generator[0],
                    (ours.network.from_noise, ours.network.from_descriptor),
                    ours.network.to_features,
                    ours.network.feature_bias,
                ),
                (
                    self.critic,
                    (ours.critic.from_features, ours.critic.from_descriptor),
                    ours.critic.to_score[None],
                    torch.zeros(1),
                ),
            ):
                layers[0].weight.copy_(torch.cat(first, 1))
                layers[2].weight.copy_(second)
                layers[2].bias.copy_(bias)
            self.generator[0][0].bias.copy_(ours.network.hidden_bias)
            self.critic[0].bias.copy_(ours.critic.hidden_bias)
            self.encoder[0].weight.copy_(refinement.encoder.weight)
            self.encoder[0].bias.copy_(refinement.encoder.bias)
            self.head.weight.copy_(refinement.head.weight)
            self.head.bias.copy_(refinement.head.bias)
