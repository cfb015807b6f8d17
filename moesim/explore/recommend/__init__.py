"""What to rent for a load: every model, GPU, plan and format priced or excluded by a bound, the best simulated."""

from moesim.explore.recommend.choose import recommend
from moesim.explore.recommend.result import Finalist, Recommendation

__all__ = ["Finalist", "Recommendation", "recommend"]
