"""People who do not exist, with habits that do: `generate` makes a population of rows for research and tests.

Guarantees: the same seed gives the same rows in any process, and person i does not change when people are added.

>>> generate(1, seed=0).title
'generated population'
"""

from federation.population.generated import Population, generate
from federation.population.people import Habit, Person
from federation.population.requests import Intent

__all__ = ["Habit", "Intent", "Person", "Population", "generate"]
