"""The command that serves a page on which a run is asked about pictures."""

from tyro.conf import Positional

from tl_jax.serving import demo as serving


def demo(
    run_or_model: Positional[str],
    *,
    port: int = serving.PORT,
    method: str = "grad_cam",
    weights: str | None = None,
    value_range: tuple[float, float] | None = None,
    calibrated: bool = False,
) -> None:
    """Serves a page on this machine: drop a picture, see what the network says of it, and why.

    Only this machine can reach it. From another one go through SSH: start
    `ssh -L 7860:127.0.0.1:7860 THIS_MACHINE` there, and open http://127.0.0.1:7860/ there.

    Args:
      run_or_model: Folder of a run; or a network: timm's name, "hf-hub:OWNER/REPO", or a folder
        with config.json and weights.
      port: Port of the page; 0 for any that is free.
      method: Method of explaining that the page begins with: "grad_cam", "grad_cam_plus_plus",
        "hires_cam", "saliency", "smooth_grad", "integrated_gradients", "occlusion" or "attention".
      weights: Where a network's weights come from; see predict.
      value_range: Values of black and white in images of more than 8 bits, such as 0 4095.
      calibrated: Divide the logits of a run that tells the class of one image by the temperature
        that it chose after training.
    """
    serving.demo(
        run_or_model, port=port, method=method, weights=weights, value_range=value_range,
        calibrated=calibrated,
    )  # fmt: skip
