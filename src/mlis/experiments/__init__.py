"""The paper's tables and figures, measured again.

- what is asked: `plans` makes `tasks`, of each `source` as much as the `budget` allows; `outlook`
  says what that will take
- how it is done: `engine` or `ray_engine` (and `ray_worker`) hand out tasks, `running` does one,
  `new_row` writes down what came of it; `testbest` is the other protocol, `rerun` does a row again
- what is kept: `store`, one row a run; `published`, what others measured
- what is shown: `tables`, `figures`, `report`
- `tuning`: the search of `mlis tune`
- `compare`: image-text models on the same data; `attribute_weight`: a choice on descriptions
"""
