"""Controls the climate of a greenhouse.

The controller reads its sensors every thirty seconds. It opens the roof vents before it
turns on a fan, because opening a vent costs nothing.
"""

from dataclasses import dataclass

MAX_HUMIDITY = 0.85
FROST_ALARM_CELSIUS = 3.0


@dataclass(frozen=True)
class Reading:
    """What the sensors say at one moment.

    Attributes:
        celsius: Temperature of the air at plant height.
        humidity: Relative humidity, 0 to 1.
        lux: Light that falls on the benches.
    """

    celsius: float
    humidity: float
    lux: float


class SensorTimeout(Exception):
    """Raised when no sensor has answered for five minutes."""


def open_vents(reading: Reading, wind_speed: float) -> bool:
    """Decide whether the roof vents should be open.

    In a storm, at more than fourteen metres a second, they stay shut in any heat.
    """
    if wind_speed > 14:
        return False
    return reading.celsius > 24 or reading.humidity > MAX_HUMIDITY


def shade_needed(reading: Reading) -> bool:
    """Decide whether the curtains should be drawn to protect seedlings from the sun."""
    return reading.lux > 55_000


def sound_alarm(reading: Reading) -> bool:
    """Call the grower by telephone when frost is near."""
    return reading.celsius < FROST_ALARM_CELSIUS


def irrigation_plan(reading: Reading, litres_per_bench: float = 4.5) -> list[float]:
    """Return the litres of water for each of the six benches.

    Benches in full light get a third more. Nothing is watered after sunset, since wet
    leaves at night invite mildew.
    """
    factor = 4 / 3 if reading.lux > 30_000 else 1.0
    return [litres_per_bench * factor] * 6
