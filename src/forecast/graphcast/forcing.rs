//! What GraphCast is told of the moment to be forecast: the sun, the time of day and the time of year.
//!
//! All in 32-bit floats where the original used them: 8000 days since 2000 leave a resolution of 42 seconds, so that the sampled
//! hour is visibly uneven, and the published weights were run with it.

use rayon::prelude::*;
use std::f32::consts::PI;

const SECONDS_A_DAY: f64 = 86_400.0;
const DAYS_A_YEAR: f64 = 365.24219;

/// Fraction of the mean tropical year that has passed, in [0, 1); `time` in seconds since 1970.
pub fn year_progress(time: i64) -> f32 {
    (time as f64 / SECONDS_A_DAY / DAYS_A_YEAR).rem_euclid(1.0) as f32
}

/// Fraction of the solar day that has passed at a longitude (degrees), in [0, 1); `time` in seconds since 1970.
pub fn day_progress(time: i64, lon: f32) -> f32 {
    let greenwich = time.rem_euclid(86_400) as f64 / SECONDS_A_DAY;
    let offset = radians(lon) / (2.0 * PI);
    (greenwich + f64::from(offset)).rem_euclid(1.0) as f32
}

/// Sine and cosine of a whole turn times `progress`.
pub fn sin_cos(progress: f32) -> (f32, f32) {
    let phase = progress * (2.0 * PI);
    (sin(phase), cos(phase))
}

/// Seconds over which radiation is summed, before the valid time.
const PERIOD_S: f64 = 3600.0;
/// Intervals of the trapezoid rule.
const N_BINS: usize = 360;

/// Solar radiation at the top of the atmosphere in J/m² over the hour that ends at `time` (seconds since 1970), at each point of a grid
/// (degrees), latitude-major. ERA5's `tisr` within some 0.1 %.
///
/// Orbital parameters are those of the GEM model (`sucst`, `fctast`), as in GraphCast's `solar_radiation`.
pub fn toa_incident_solar_radiation(time: i64, lat: &[f32], lon: &[f32]) -> Vec<f32> {
    let end = (time as f64 / SECONDS_A_DAY + 2_440_587.5 - 2_451_545.0) as f32;
    let step = PERIOD_S / N_BINS as f64;
    let irradiance = total_solar_irradiance(time) as f32;
    let suns: Vec<Sun> = (0..=N_BINS)
        .map(|i| Sun::at(end + ((i as f64 * step - PERIOD_S) / SECONDS_A_DAY) as f32, irradiance))
        .collect();
    // Cosine of the hour angle of each sample and longitude, longitude-major.
    let phi: Vec<f32> = lon.iter().map(|&v| radians(v)).collect();
    let hours: Vec<f32> = phi.par_iter().flat_map_iter(|&p| suns.iter().map(move |s| cos(s.phase + p))).collect();
    let row = |&lat: &f32| {
        let (sin_lat, cos_lat) = (sin(radians(lat)), cos(radians(lat)));
        let of_sun: Vec<(f32, f32)> =
            suns.iter().map(|s| (cos_lat * s.cos_declination, sin_lat * s.sin_declination)).collect();
        let at = |hours: &[f32]| {
            let mut sum = 0.0;
            for (i, ((&hour, &(a, b)), s)) in hours.iter().zip(&of_sun).zip(&suns).enumerate() {
                let flux = s.flux * (a * hour + b).max(0.0);
                sum += f64::from(flux) * if i == 0 || i == N_BINS { 0.5 } else { 1.0 };
            }
            (sum * step) as f32
        };
        hours.chunks_exact(N_BINS + 1).map(at).collect::<Vec<_>>()
    };
    lat.par_iter().flat_map_iter(row).collect()
}

/// Where the sun stands at a moment.
struct Sun {
    /// Hour angle at longitude 0, radians.
    phase: f32,
    sin_declination: f32,
    cos_declination: f32,
    /// W/m² on a plane across the rays.
    flux: f32,
}

impl Sun {
    /// `days` since noon of 2000-01-01.
    fn at(days: f32, irradiance: f32) -> Self {
        let theta = days / 365.25;
        let rel = 1.7535 + 6.283_076 * theta;
        let rem = 6.240_041 + 6.283_02 * theta;
        let rlls = 4.8951 + 6.283_076 * theta;
        let longitude = 4.8952 + 6.283_32 * theta - 0.0075 * sin(rel) - 0.0326 * cos(rel) - 0.0003 * sin(2.0 * rel)
            + 0.0002 * cos(2.0 * rel);
        let sin_declination = sin(0.409_093) * sin(longitude);
        let equation_of_time = 591.8 * sin(2.0 * rlls) - 459.4 * sin(rem) + 39.5 * (sin(rem) * cos(2.0 * rlls))
            - 12.7 * sin(4.0 * rlls)
            - 4.8 * sin(2.0 * rem);
        let distance = 1.0001 - 0.0163 * sin(rel) + 0.0037 * cos(rel);
        Self {
            phase: 2.0 * PI * (days.rem_euclid(1.0) + equation_of_time / 86_400.0),
            sin_declination,
            cos_declination: (1.0 - sin_declination * sin_declination).sqrt(),
            flux: irradiance * ((1.0 / distance) * (1.0 / distance)),
        }
    }
}

/// Middle of the first year of the table below.
const FIRST_YEAR: f64 = 1951.5;

/// Yearly means of total solar irradiance in W/m² as ERA5 used them (IFS cycle 41r2), before the factor 0.9965; 1951 to 1995.
const IRRADIANCE: [f64; 45] = [
    1365.7765, 1365.7676, 1365.6284, 1365.6564, 1365.7773, 1366.3109, 1366.6681, 1366.6328, 1366.3828, 1366.2767,
    1365.9199, 1365.7484, 1365.6963, 1365.6976, 1365.7341, 1365.9178, 1366.1143, 1366.1644, 1366.2476, 1366.2426,
    1365.9580, 1366.0525, 1365.7991, 1365.7271, 1365.5345, 1365.6453, 1365.8331, 1366.2747, 1366.6348, 1366.6482,
    1366.6951, 1366.2859, 1366.1992, 1365.8103, 1365.6416, 1365.6379, 1365.7899, 1366.0826, 1366.6479, 1366.5533,
    1366.4457, 1366.3021, 1366.0286, 1365.7971, 1365.6996,
];

/// The solar cycle that repeats from 1996 on.
const CYCLE: [f64; 13] = [
    1365.6121, 1365.7399, 1366.1021, 1366.3851, 1366.6836, 1366.6022, 1366.6807, 1366.2300, 1366.0480, 1365.8545,
    1365.8107, 1365.7240, 1365.6918,
];

/// The table ends in the middle of 2034.
const N_YEARS: usize = IRRADIANCE.len() + 3 * CYCLE.len();

/// Total solar irradiance in W/m² at `time` (seconds since 1970): yearly means, linearly interpolated, the ends held.
fn total_solar_irradiance(time: i64) -> f64 {
    let year_mean =
        |i: usize| 0.9965 * IRRADIANCE.get(i).copied().unwrap_or_else(|| CYCLE[(i - IRRADIANCE.len()) % CYCLE.len()]);
    let place = (fractional_year(time) - FIRST_YEAR).clamp(0.0, (N_YEARS - 1) as f64);
    let below = (place as usize).min(N_YEARS - 2);
    let (a, b) = (year_mean(below), year_mean(below + 1));
    a + (b - a) * (place - below as f64)
}

/// The year, with the fraction of it that has passed.
fn fractional_year(time: i64) -> f64 {
    let (days, seconds) = (time.div_euclid(86_400), time.rem_euclid(86_400));
    // Days are counted from March of year 0 in cycles of 400 years, so that leap days come last.
    let day = days + 719_468;
    let cycle = day.div_euclid(146_097);
    let of_cycle = day.rem_euclid(146_097);
    let year_of_cycle = (of_cycle - of_cycle / 1460 + of_cycle / 36_524 - of_cycle / 146_096) / 365;
    let since_march = of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    // January and February (the last 59 or 60 of the days from March) belong to the next year.
    let year = cycle * 400 + year_of_cycle + i64::from(since_march >= 306);
    let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let of_year = if since_march >= 306 { since_march - 306 } else { since_march + 59 + i64::from(leap) };
    let length = if leap { 366.0 } else { 365.0 };
    year as f64 + (of_year as f64 + seconds as f64 / SECONDS_A_DAY) / length
}

fn radians(degrees: f32) -> f32 {
    degrees * (PI / 180.0)
}

// Rounded from f64, so that the last bit is the same on every machine.
fn sin(x: f32) -> f32 {
    f64::from(x).sin() as f32
}

fn cos(x: f32) -> f32 {
    f64::from(x).cos() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn years_have_their_days() {
        assert_eq!(fractional_year(0), 1970.0);
        // 2000-02-29 12:00, 2000-12-31 00:00, 1999-12-31 00:00, 2024-03-01 00:00, 1900-03-01 00:00.
        assert_eq!(fractional_year(951_825_600), 2000.0 + 59.5 / 366.0);
        assert_eq!(fractional_year(978_220_800), 2000.0 + 365.0 / 366.0);
        assert_eq!(fractional_year(946_598_400), 1999.0 + 364.0 / 365.0);
        assert_eq!(fractional_year(1_709_251_200), 2024.0 + 60.0 / 366.0);
        assert_eq!(fractional_year(-2_203_891_200), 1900.0 + 59.0 / 365.0);
    }

    #[test]
    fn irradiance_holds_at_the_ends_and_repeats() {
        assert_eq!(total_solar_irradiance(i64::MIN / 1_000_000), 0.9965 * IRRADIANCE[0]);
        assert_eq!(total_solar_irradiance(4_000_000_000), 0.9965 * CYCLE[12]);
        // 1996-07-02 00:00 is half of a year of 366 days.
        assert!((total_solar_irradiance(836_265_600) - 0.9965 * CYCLE[0]).abs() < 1e-9);
    }

    #[test]
    fn the_sun_is_overhead_at_noon_on_the_equator() {
        // 2020-03-20 12:00, equinox: over the hour before noon some 1361 W/m² times 3600 s, less the cosine; none at midnight.
        let noon = 1_584_705_600;
        let found = toa_incident_solar_radiation(noon, &[0.0, 90.0], &[0.0, 180.0]);
        assert!((found[0] / (1361.0 * 3600.0) - 1.0).abs() < 0.03, "{}", found[0]);
        assert_eq!(found[1], 0.0);
        assert!(found[2] < 0.02 * found[0]);
    }
}
