"""A LightningModule and a Trainer that joins the ranks it finds itself among; rank 0 prints each loss and the weights' digest."""

from __future__ import annotations

import lightning
import torch
from figures import digest


class Classifier(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.GELU(), torch.nn.Linear(32, 4))

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        inputs, labels = batch
        loss = torch.nn.functional.cross_entropy(self.layers(inputs), labels)
        mean = self.all_gather(loss.detach()).mean().item()
        if self.global_rank == 0:
            print(f"loss {mean!r}", flush=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.01)


if __name__ == "__main__":
    lightning.seed_everything(7, verbose=False)
    rows = torch.utils.data.TensorDataset(torch.randn(96, 16), torch.randint(4, (96,)))
    loader = torch.utils.data.DataLoader(rows, batch_size=8, shuffle=True)
    model = Classifier()
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, loader)
    if trainer.is_global_zero:
        print("weights", digest(model.state_dict()))
