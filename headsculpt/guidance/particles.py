"""The model of the renderings that variational score distillation needs: a LoRA on the guiding UNet."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from headsculpt.cameras import Cameras
from headsculpt.guidance.backbone import Control, LatentDiffusion
from headsculpt.guidance.samplers import add_noise

ADAPTER = "particles"
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
CAMERA_DROP = 0.1  # share of the rows that learn without their camera (ProlificDreamer)


class ParticleModel:
    """Noise prediction for the renderings as they are now (Wang et al. 2023, ProlificDreamer, section 3.2).

    A LoRA on the attention layers of the guiding UNet, by peft, so that any diffusers UNet with text
    attention will do and costs no second copy. It is switched on only inside :meth:`predict` and
    :meth:`learn`; the UNet guides unchanged. Each view's camera is told as one more token of the text, a
    learned projection of the camera-to-world matrix (ours; the paper adds it to the timestep's embedding,
    which not every UNet has a place for).

    Args:
        backbone: the diffusion model.
        rank: of the LoRA.
        rate: learning rate (1e-4 in the paper).
        seed: of the first weights.

    Raises:
        ImportError: peft is not installed.
    """

    def __init__(self, backbone: LatentDiffusion, *, rank: int = 4, rate: float = 1e-4, seed: int = 0) -> None:
        if importlib.util.find_spec("peft") is None:
            raise ImportError("guidance.score=vsd needs the package peft, which is missing: pip install 'headsculpt[vsd]'")
        from peft import LoraConfig

        self.backbone = backbone
        self.unet = cast(Any, backbone.prior.unet)  # diffusers' types hide its methods behind nn.Module
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if ADAPTER in getattr(self.unet, "peft_config", {}):  # of an earlier sculpture with the same prior
                self.unet.delete_adapters(ADAPTER)
            config = LoraConfig(r=rank, lora_alpha=rank, init_lora_weights=True, target_modules=list(ATTENTION))
            self.unet.add_adapter(config, adapter_name=ADAPTER)
            width = int(self.unet.config.cross_attention_dim)
            self.camera = nn.Linear(16, width).to(backbone.device)
        # In float32 whatever the UNet has: Adam's small steps are lost in half precision.
        self.lora = {n: p for n, p in self.unet.named_parameters() if f".{ADAPTER}." in n}
        for parameter in self.lora.values():
            parameter.data = parameter.data.float()
        self.unet.disable_adapters()
        self.optimiser = torch.optim.AdamW([*self.lora.values(), *self.camera.parameters()], lr=rate)

    def predict(
        self, noisy: Tensor, timesteps: Tensor, text: Tensor, cameras: Cameras, controls: dict[str, Control]
    ) -> Tensor:
        """Noise ``(B, C, h, w)`` as the renderings explain it, without gradient."""
        with torch.no_grad(), self._switched_on():
            text = self._with_cameras(text, cameras, torch.ones(len(cameras)))
            return self.backbone.predict_noise(noisy, timesteps, text, controls)

    def learn(
        self,
        latents: Tensor,
        text: Tensor,
        cameras: Cameras,
        controls: dict[str, Control],
        generator: torch.Generator,
    ) -> float:
        """One step on ``|| e_own(z_t) - eps ||^2`` (eq. 8) with the latents of the renderings; its mean loss."""
        abar = self.backbone.alphas_cumprod
        timesteps = torch.randint(1, len(abar), (len(latents),), generator=generator).to(latents.device)
        noise = torch.randn(latents.shape, generator=generator).to(latents.device)
        kept = (torch.rand(len(latents), generator=generator) >= CAMERA_DROP).float()
        noisy = add_noise(latents, noise, abar, timesteps)
        self.optimiser.zero_grad(set_to_none=True)
        # Backward too: peft takes gradients only for adapters that are switched on.
        with torch.enable_grad(), self._switched_on():
            text = self._with_cameras(text, cameras, kept)
            error = (self.backbone.predict_noise(noisy, timesteps, text, controls, learn=True) - noise).square()
            # The sum, not the mean, so that half-precision gradients inside the UNet do not vanish.
            error.sum().div(len(latents)).backward()
        self.optimiser.step()
        return float(error.detach().mean())

    @contextmanager
    def _switched_on(self) -> Iterator[None]:
        self.unet.enable_adapters()
        try:
            yield
        finally:
            self.unet.disable_adapters()

    def _with_cameras(self, text: Tensor, cameras: Cameras, kept: Tensor) -> Tensor:
        matrices = cameras.camera_to_world.flatten(1).to(self.camera.weight)
        token = self.camera(matrices) * kept[:, None].to(matrices)
        return torch.cat([text, token[:, None].to(text)], 1)

    def state_dict(self) -> dict[str, Any]:
        """Weights and the optimiser's state."""
        return {
            "lora": {name: p.detach().clone() for name, p in self.lora.items()},
            "camera": copy.deepcopy(self.camera.state_dict()),
            "optimiser": copy.deepcopy(self.optimiser.state_dict()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts back what :meth:`state_dict` gave; ValueError when it is of another UNet or rank."""
        if set(state["lora"]) != set(self.lora) or any(state["lora"][n].shape != p.shape for n, p in self.lora.items()):
            raise ValueError(
                "the checkpoint's LoRA does not fit this UNet and guidance.lora_rank; resume with the settings and "
                "the prior that the run began with"
            )
        with torch.no_grad():
            for name, parameter in self.lora.items():
                parameter.copy_(state["lora"][name])
        self.camera.load_state_dict(state["camera"])
        self.optimiser.load_state_dict(state["optimiser"])
