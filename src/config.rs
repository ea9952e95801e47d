//! What the user asks for: bounds, predictor, tile size.

/// Which predictors may be chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PredictorChoice {
    /// The cheapest on samples of each tile.
    #[default]
    Auto,
    /// No prediction.
    None,
    /// Lorenzo.
    Lorenzo,
    /// Multi-level interpolation.
    Interp,
}
