"""Samplers and schedules as rows: names, aliases, options each reads, and where its function is. Free of torch.

The server shows these lists without loading the engine; the engine finds its functions through the same rows. A new
sampler is one function and one row. Order, names and flags of the first twenty samplers are A1111's; the rest are
those of Forge, ComfyUI and diffusers under their own names.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from modules.schema.errors import NotFound

_SAMPLERS = "modules.sampling.samplers"
_SCHEDULES = "modules.sampling.schedules"

CHURN = ("s_churn", "s_tmin", "s_tmax", "s_noise")
UNIPC = ("uni_pc_variant", "uni_pc_skip_type", "uni_pc_order", "uni_pc_lower_order_final")


@dataclass(frozen=True)
class Sampler:
    """One row. `reads` names the options that change its result, so that a form can hide the others."""

    name: str
    function: str
    """`module:function`, loaded with `samplers.load`."""
    aliases: tuple[str, ...] = ()
    scheduler: str | None = None
    """Name of the schedule that "Automatic" stands for; None is the model's own even spacing, "uniform"."""
    order: int = 1
    """2 = "second order" in A1111's sense: progress and prompt schedules count two model calls for each step."""
    reads: tuple[str, ...] = ()
    fixed: tuple[tuple[str, object], ...] = ()
    """Arguments that make this row out of a shared function."""
    grid: str = "schedule"
    """Which noise levels it walks: "schedule" (any), "range" (only the ends of the schedule), or the fixed timestep
    grids "ddim", "unipc" and "tcd", for which the schedule choice has no effect."""
    brownian: bool = False
    """Step noise is an increment of a Brownian path, so it depends on the levels and not on the number of draws."""
    discard_penultimate: bool = False
    """The schedule is made for one step more and its last level above 0 is left out."""
    flow_noise: bool = False
    """Knows how noise is put back into a flow model's mix of picture and noise."""
    uses_ensd: bool = False
    """The infotext tells the noise seed delta when eta is not 0."""
    wants_uncond: bool = False
    """`denoise` must answer (guided, unconditional) instead of the guided prediction alone (CFG++)."""
    cfg_factor: float = 1.0
    """The guidance scale is multiplied by this."""
    lcm: bool = False
    """Wants the consistency-model wrapper and its table of 50 levels."""

    @property
    def variance_preserving(self) -> bool:
        """Starts from noise of unit variance in the scaling sqrt(a) x0 + sqrt(1 - a) noise and ends above level 0."""
        return self.grid in ("ddim", "unipc", "tcd")

    @property
    def uses_schedule(self) -> bool:
        return self.grid in ("schedule", "range")

    def outer_steps(self, steps: int) -> int | None:
        """How often `on_step` is called for a list of `steps` intervals; None where it depends on the picture."""
        if self.name == "DPM adaptive":
            return None
        return steps // 3 + 1 if self.name == "DPM fast" else steps


def _row(name: str, function: str, *aliases: str, **rest: object) -> Sampler:
    return Sampler(name, f"{_SAMPLERS}:sample_{function}", aliases, **rest)  # type: ignore[arg-type]


SAMPLERS: tuple[Sampler, ...] = (
    _row("DPM++ 2M", "dpmpp_2m", "k_dpmpp_2m", scheduler="karras"),
    _row("DPM++ SDE", "dpmpp_sde", "k_dpmpp_sde", scheduler="karras", order=2, reads=("eta", "s_noise"), brownian=True),
    _row(
        "DPM++ 2M SDE",
        "dpmpp_2m_sde",
        "k_dpmpp_2m_sde",
        scheduler="exponential",
        reads=("eta", "s_noise"),
        brownian=True,
    ),
    _row(
        "DPM++ 2M SDE Heun",
        "dpmpp_2m_sde",
        "k_dpmpp_2m_sde_heun",
        scheduler="exponential",
        reads=("eta", "s_noise"),
        fixed=(("solver", "heun"),),
        brownian=True,
    ),
    _row(
        "DPM++ 2S a",
        "dpmpp_2s_ancestral",
        "k_dpmpp_2s_a",
        scheduler="karras",
        order=2,
        reads=("eta", "s_noise"),
        uses_ensd=True,
    ),
    _row(
        "DPM++ 3M SDE",
        "dpmpp_3m_sde",
        "k_dpmpp_3m_sde",
        scheduler="exponential",
        reads=("eta", "s_noise"),
        brownian=True,
        discard_penultimate=True,
    ),
    _row(
        "Euler a", "euler_ancestral", "k_euler_a", "k_euler_ancestral", reads=("eta",), uses_ensd=True, flow_noise=True
    ),
    _row("Euler", "euler", "k_euler", reads=CHURN),
    _row("LMS", "lms", "k_lms"),
    _row("Heun", "heun", "k_heun", order=2, reads=CHURN),
    _row("DPM2", "dpm_2", "k_dpm_2", scheduler="karras", order=2, reads=CHURN, discard_penultimate=True),
    _row(
        "DPM2 a",
        "dpm_2_ancestral",
        "k_dpm_2_a",
        scheduler="karras",
        order=2,
        reads=("eta", "s_noise"),
        uses_ensd=True,
        discard_penultimate=True,
    ),
    _row("DPM fast", "dpm_fast", "k_dpm_fast", reads=("eta", "s_noise"), uses_ensd=True, grid="range"),
    _row(
        "DPM adaptive",
        "dpm_adaptive",
        "k_dpm_ad",
        reads=("eta", "dpm_adaptive_joint"),
        uses_ensd=True,
        grid="range",
    ),
    _row("Restart", "restart", "restart", scheduler="karras", order=2),
    _row("DDIM", "ddim", "ddim", reads=("eta",), grid="ddim"),
    _row(
        "DDIM CFG++",
        "ddim_cfgpp",
        "ddim_cfgpp",
        reads=("eta",),
        grid="ddim",
        wants_uncond=True,
        cfg_factor=1 / 12.5,
    ),
    _row("PLMS", "plms", "plms", grid="ddim"),
    _row("UniPC", "uni_pc", "unipc", reads=UNIPC, grid="unipc"),
    _row("LCM", "lcm", "k_lcm", lcm=True),
    # Forge
    _row("HeunPP2", "heunpp2", "heunpp2"),
    _row("IPNDM", "ipndm", "ipndm"),
    _row("IPNDM_V", "ipndm_v", "ipndm_v"),
    _row("DEIS", "deis", "deis"),
    _row("DDPM", "ddpm", "ddpm"),
    # ComfyUI
    _row("Euler CFG++", "euler_cfg_pp", "euler_cfg_pp", wants_uncond=True),
    _row(
        "Euler a CFG++",
        "euler_ancestral_cfg_pp",
        "euler_ancestral_cfg_pp",
        reads=("eta", "s_noise"),
        uses_ensd=True,
        wants_uncond=True,
    ),
    _row("DPM++ 2M CFG++", "dpmpp_2m_cfg_pp", "dpmpp_2m_cfg_pp", scheduler="karras", wants_uncond=True),
    # diffusers
    _row("TCD", "tcd", "tcd", reads=("tcd_gamma",), grid="tcd"),
)


@dataclass(frozen=True)
class Schedule:
    """One row: how a number of steps is spread over noise levels. `reads` as in `Sampler`."""

    name: str
    label: str
    function: str = ""
    aliases: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    default_rho: float | None = None
    takes_range: bool = True
    """False where the levels are the model's own, so that sigma min and max have no effect."""


def _schedule(name: str, label: str, *aliases: str, **rest: object) -> Schedule:
    return Schedule(name, label, f"{_SCHEDULES}:{name}", aliases, **rest)  # type: ignore[arg-type]


_RANGE = ("sigma_min", "sigma_max", "use_old_karras_scheduler_sigmas")
_BETA = ("beta_dist_alpha", "beta_dist_beta")

AUTOMATIC = Schedule("automatic", "Automatic")

SCHEDULES: tuple[Schedule, ...] = (
    AUTOMATIC,
    _schedule("uniform", "Uniform", takes_range=False),
    _schedule("karras", "Karras", reads=("rho", *_RANGE), default_rho=7.0),
    _schedule("exponential", "Exponential", reads=_RANGE),
    _schedule("polyexponential", "Polyexponential", reads=("rho", *_RANGE), default_rho=1.0),
    _schedule("sgm_uniform", "SGM Uniform", "SGMUniform", reads=_RANGE),
    _schedule("kl_optimal", "KL Optimal", reads=_RANGE),
    _schedule("align_your_steps", "Align Your Steps", takes_range=False),
    _schedule("simple", "Simple", takes_range=False),
    _schedule("normal", "Normal", reads=_RANGE),
    _schedule("ddim", "DDIM", takes_range=False),
    _schedule("beta", "Beta", reads=(*_BETA, *_RANGE)),
    _schedule("turbo", "Turbo", takes_range=False),
    _schedule("align_your_steps_gits", "Align Your Steps GITS", takes_range=False),
    _schedule("align_your_steps_11", "Align Your Steps 11", takes_range=False),
    _schedule("align_your_steps_32", "Align Your Steps 32", takes_range=False),
    _schedule("beta_timesteps", "Beta Timesteps", reads=_BETA, takes_range=False),
    _schedule("kl_optimal_zero", "KL Optimal Zero", reads=_RANGE),
)

SAMPLER_NAMES = tuple(row.name for row in SAMPLERS)
SCHEDULE_LABELS = tuple(row.label for row in SCHEDULES)


def sampler_words(row: Sampler) -> tuple[str, ...]:
    """Every way of writing a sampler's name, in lower case: the name, the aliases, and the function's name as ComfyUI
    has it, with and without NovelAI's "k_"."""
    function = row.function.partition(":sample_")[2]
    functions = () if row.fixed else (function, f"k_{function}")
    return tuple(dict.fromkeys(name.lower() for name in (row.name, *row.aliases, *functions)))


_BY_SAMPLER_WORD = {word: row for row in reversed(SAMPLERS) for word in sampler_words(row)}
_BY_SCHEDULE_WORD = {word.lower(): row for row in reversed(SCHEDULES) for word in (row.name, row.label, *row.aliases)}
# Endings of the names that had the schedule in them: those that are written out, and the two of the old alias lists
# ("k_dpmpp_2m_ka"). Longest first, so that "SGM Uniform" is not read as "Uniform".
_ENDINGS = sorted(
    [(" " + word, row) for word, row in _BY_SCHEDULE_WORD.items()]
    + [("_" + word, _BY_SCHEDULE_WORD[name]) for word, name in (("ka", "karras"), ("exp", "exponential"))],
    key=lambda pair: -len(pair[0]),
)


def find_schedule(text: str | None) -> Schedule:
    """The row called `text` (name, label or alias, in any case). Nothing and "Automatic" give AUTOMATIC."""
    word = (text or "").strip().lower()
    if not word:
        return AUTOMATIC
    if word not in _BY_SCHEDULE_WORD:
        raise NotFound(
            f"No schedule is called {text!r}; nearest: {_nearest(word, SCHEDULE_LABELS)}. "
            'Choose one of the list, or "Automatic" for the sampler\'s own.',
            field="scheduler",
        )
    return _BY_SCHEDULE_WORD[word]


def find_sampler(text: str) -> tuple[Sampler, Schedule | None]:
    """The sampler called `text`, and the schedule if its name has one in it ("DPM++ 2M Karras"), as it had before 1.9.

    Names, aliases and function names are understood in any case. Raises NotFound with the nearest names.
    """
    word = " ".join(text.lower().split())
    if row := _BY_SAMPLER_WORD.get(word):
        return row, None
    for ending, schedule in _ENDINGS:
        if word.endswith(ending) and (row := _BY_SAMPLER_WORD.get(word[: -len(ending)])):
            return row, schedule
    raise NotFound(
        f"No sampler is called {text!r}; nearest: {_nearest(word, SAMPLER_NAMES)}. Choose one of the list.",
        field="sampler_name",
    )


def normalise(sampler: str, scheduler: str | None = None) -> tuple[Sampler, Schedule]:
    """(sampler, scheduler) of a request or an infotext as rows.

    A schedule in the sampler's name beats the other; one that is the sampler's own becomes Automatic, so
    "DPM++ 2M Karras" is (DPM++ 2M, Automatic) and "DPM++ 2M SDE Karras" is (DPM++ 2M SDE, Karras).
    """
    row, fused = find_sampler(sampler)
    schedule = fused or find_schedule(scheduler)
    return row, (AUTOMATIC if schedule.name == row.scheduler else schedule)


def resolve(sampler: Sampler, schedule: Schedule) -> Schedule:
    """The schedule that is meant: Automatic becomes the sampler's own."""
    return find_schedule(sampler.scheduler or "uniform") if schedule is AUTOMATIC else schedule


def label_of(sampler: Sampler, schedule: Schedule) -> str:
    """The schedule as an infotext names it: Automatic is written as what it stands for, where it stands for one."""
    if schedule is AUTOMATIC and sampler.scheduler:
        return find_schedule(sampler.scheduler).label
    return schedule.label


def _nearest(word: str, names: tuple[str, ...]) -> str:
    folded = {name.lower(): name for name in names}
    near = difflib.get_close_matches(word, folded, n=3, cutoff=0.3) or list(folded)[:3]
    return ", ".join(folded[name] for name in near)
