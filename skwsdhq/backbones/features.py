"""Features of images: what a pretrained network makes of them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..images.kind import input_kind
from ..images.resized import ResizedImages, side_for_crops
from ..utils.validation import check_choice, check_whole
from .networks import LITE0, is_own, load_backbone, name_of, resolve_backbone, resolve_device
from .run import compute_dtype, features_of

__all__ = ["extract_features", "features_and_skipped"]


def extract_features(  # noqa: PLR0913 - options of a call, all but two by name
    images: Any,
    backbone: Any = LITE0,
    *,
    batch_size: int | None = None,
    device: Any = None,
    dtype: str = "float32",
    n_jobs: int | None = None,
    background: str | Sequence[int] = "white",
    on_error: str = "raise",
    ten_crop: bool = False,
    features: str = "final",
    verbose: int = 0,
) -> Any:
    """Extract features of images by a frozen network.

    Reading goes on while the network runs, and memory grows by the features alone. On a CPU each
    thread computes batches of its own, so the number of threads does not change the features. A
    torch module runs in eval mode, in a copy that shares its parameters: the module itself stays
    in its mode, and several threads may use it. A callable that is no module, or a module with
    hooks, gets one batch at a time. Where the package ``openvino`` is installed, it runs networks
    by name on a CPU, in float32 and from 512 images on: features differ from torch's by less than
    1e-4 of a row's length, or torch is taken.

    Parameters
    ----------
    images : ndarray of shape (n, H, W, 3), or sequence of n pictures or paths
        uint8 pixels; pictures may differ in size.
    backbone : str, torch.nn.Module, callable or Backbone, default="efficientnet_lite0"
        See :func:`load_backbone`.
    batch_size : int, default=None
        Images that go through the network at once; None is 4 on a CPU, where each of torch's
        threads takes a batch of its own, and 128 on a GPU.
    device : str or torch.device, default=None
        Where the network runs; None is CUDA where there is one, else the CPU.
    dtype : {"float32", "bfloat16", "auto"}, default="float32"
        What the network computes in. bfloat16 takes half the time where the processor has
        instructions for it, and moves features by some hundredths of their norm; ``"auto"`` is
        bfloat16 there and float32 elsewhere, so that another machine may give other features.
        Either gives the same features each time on one machine.
    n_jobs : int, default=None
        Threads that read and resize images; None is 1, -1 all cores.
    background : str or (red, green, blue), default="white"
        Colour behind transparent images.
    on_error : {"raise", "skip"}, default="raise"
        What to do about an image that can't be read: raise an error that names it, or leave it
        out.
    ten_crop : bool, default=False
        Whether features are the mean over ten crops of the network's size (four corners, the
        middle, and their mirror images) of a picture 8/7 as large (256 pixels for 224 and 227),
        which takes ten times as long. Else the picture is seen once, at the network's size.
    features : {"final", "stages"}, default="final"
        What the network's last layer gives; or, side by side with it, what its later stages see:
        the mean and the maximum over the places of each, every part scaled to one sum. Nearly twice
        as many numbers find more, of images that come later most of all. Known for EfficientNet,
        MobileNet, ConvNeXt, ResNet and ViT by name.
    verbose : int, default=0
        1 shows a progress bar, and tells the log "skwsdhq.backbones" how many images a second it
        took. At any value, with 100 images or more, that log says (at INFO) what begins and, after
        the first of them, how long it will take.

    Returns
    -------
    features : ndarray of shape (n, d), float32
        Row i belongs to image i. With ``on_error="skip"`` to image ``rows[i]``.
    rows : ndarray of int
        Only with ``on_error="skip"``: numbers of the images that were read. Take these rows of the
        tags too: ``[tags[i] for i in rows]``.

    Raises
    ------
    ValueError
        If there are no images, or an image is of another form.
    OSError
        If a file can't be read; the message names it.

    Examples
    --------
    >>> import numpy as np
    >>> from skwsdhq.backbones import extract_features
    >>> def mean_colour(batch):
    ...     return batch.mean(axis=(1, 2))
    >>> pictures = [np.full((4, 6, 3), 7, dtype=np.uint8), "nowhere.jpg"]
    >>> extract_features(pictures, mean_colour, on_error="skip")
    (array([[7., 7., 7.]], dtype=float32), array([0]))
    """
    check_choice("features", features, ("final", "stages"))
    found, skipped = features_and_skipped(
        images,
        resolve_backbone(backbone, features),
        batch_size=batch_size,
        device=device,
        dtype=dtype,
        n_jobs=n_jobs,
        background=background,
        on_error=on_error,
        ten_crop=ten_crop,
        verbose=verbose,
    )
    if on_error == "raise":
        return found
    rows = np.setdiff1d(np.arange(len(found)), list(skipped))
    return found[rows], rows


def features_and_skipped(  # noqa: PLR0913 - those of extract_features, and what callers add
    images: Any,
    backbone: Any,
    *,
    batch_size: int | None = None,
    device: Any = None,
    dtype: str = "float32",
    n_jobs: int | None = None,
    background: str | Sequence[int] = "white",
    on_error: str = "raise",
    ten_crop: bool = False,
    then: Callable[[np.ndarray], np.ndarray] | None = None,
    rows: Sequence[int] | None = None,
    room: Callable[[tuple[int, int], Any], np.ndarray] = np.empty,
    is_announced: bool = True,
    verbose: int = 0,
) -> tuple[np.ndarray, dict[int, str]]:
    """Extract features, those of a blank picture where an image can't be read, and tell where.

    ``rows`` are the numbers of the images to take; None is all. ``then`` takes the features of a
    batch, and gives what takes their place (before the mean over crops). ``room`` makes the array
    of all features. ``is_announced`` says whether the log tells of a long run.
    """
    # Before the network is loaded, which takes longer than to see a mistake.
    input_kind(images)  # refuses what has no length
    if not len(images):
        raise ValueError("there should be at least one image; got none.")
    device = resolve_device(device)
    computed_in = compute_dtype(dtype, device)
    network = load_backbone(backbone)
    side = side_for_crops(network.size) if ten_crop else network.size
    pictures = ResizedImages(images, side, n_jobs=n_jobs, background=background, on_error=on_error)
    # On a CPU the activations of a few images fit its caches; a GPU needs many to be busy.
    if batch_size is None:
        batch_size = 4 if device.type == "cpu" else 128
    batch_size = check_whole("batch_size", batch_size)
    features = features_of(
        pictures,
        network,
        batch_size=batch_size,
        device=device,
        dtype=computed_in,
        ten_crop=ten_crop,
        then=then,
        rows=rows,
        room=room,
        is_own=is_own(network.module),
        announced_as=name_of(backbone) if is_announced else None,
        verbose=verbose,
    )
    return features, dict(sorted(pictures.skipped_.items()))
