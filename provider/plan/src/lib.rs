//! The pure planner: policy and observed state to topology and steps.
