//! What fields are called: one name for each quantity, found again under the names that files and models use.

use std::fmt;

/// A field's name: a quantity, and its level if it has levels.
///
/// Quantities go by ERA5's short names (`t`, `2t`, `msl`, `tp`); those this table does not know keep the name they came with.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Short name.
    pub name: String,
    /// Pressure level in hPa; `None` for a field of the surface, or of the whole column.
    pub level_hpa: Option<u32>,
}

impl Key {
    /// A field without levels. `name` may be any name of the quantity.
    pub fn surface(name: &str) -> Self {
        Self { name: short_name(name, None, false), level_hpa: None }
    }

    /// A field on a pressure level in hPa. `name` may be any name of the quantity.
    pub fn level(name: &str, hpa: u32) -> Self {
        Self { name: short_name(name, None, true), level_hpa: Some(hpa) }
    }

    /// A field as a file names it: by its CF standard name if that says what it is, else by its own.
    pub fn of_variable(name: &str, standard_name: Option<&str>, level_hpa: Option<u32>) -> Self {
        Self { name: short_name(name, standard_name, level_hpa.is_some()), level_hpa }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.level_hpa {
            None => f.write_str(&self.name),
            Some(hpa) => write!(f, "{}@{hpa}hPa", self.name),
        }
    }
}

/// A quantity under its names.
struct Quantity {
    /// ERA5's short name, which [`Key`] uses.
    short: &'static str,
    /// CF standard names that mean this quantity and, at this place, no other.
    standard: &'static [&'static str],
    /// Names in files and models.
    aliases: &'static [&'static str],
    /// On pressure levels, or not.
    levels: bool,
}

const fn on_levels(
    short: &'static str,
    standard: &'static [&'static str],
    aliases: &'static [&'static str],
) -> Quantity {
    Quantity { short, standard, aliases, levels: true }
}

const fn flat(short: &'static str, standard: &'static [&'static str], aliases: &'static [&'static str]) -> Quantity {
    Quantity { short, standard, aliases, levels: false }
}

/// Winds at 10 m and 100 m share their CF standard name, as do temperature at 2 m and at the ground: only names tell them apart.
const QUANTITIES: &[Quantity] = &[
    on_levels("z", &["geopotential"], &["geopotential"]),
    on_levels("t", &["air_temperature"], &["temperature", "air_temperature", "ta"]),
    on_levels("u", &["eastward_wind"], &["u_component_of_wind", "ua"]),
    on_levels("v", &["northward_wind"], &["v_component_of_wind", "va"]),
    on_levels("q", &["specific_humidity"], &["specific_humidity", "hus"]),
    on_levels("r", &["relative_humidity"], &["relative_humidity", "hur"]),
    on_levels("w", &["lagrangian_tendency_of_air_pressure"], &["vertical_velocity", "omega", "wap"]),
    on_levels("o3", &["mass_fraction_of_ozone_in_air"], &["ozone_mass_mixing_ratio"]),
    flat("2t", &[], &["t2m", "2m_temperature", "tas"]),
    flat("2d", &[], &["d2m", "2m_dewpoint_temperature"]),
    flat("10u", &[], &["u10", "10m_u_component_of_wind", "uas"]),
    flat("10v", &[], &["v10", "10m_v_component_of_wind", "vas"]),
    flat("100u", &[], &["u100", "100m_u_component_of_wind"]),
    flat("100v", &[], &["v100", "100m_v_component_of_wind"]),
    flat("msl", &["air_pressure_at_mean_sea_level", "air_pressure_at_sea_level"], &["mean_sea_level_pressure", "psl"]),
    flat("sp", &["surface_air_pressure"], &["surface_pressure", "ps"]),
    flat("tcc", &["cloud_area_fraction"], &["total_cloud_cover"]),
    flat("tp", &[], &["total_precipitation"]),
    flat("tp6", &[], &["total_precipitation_6hr"]),
    flat("tisr", &["toa_incoming_shortwave_flux"], &["toa_incident_solar_radiation"]),
    flat("sst", &["sea_surface_temperature"], &["sea_surface_temperature"]),
    flat("lsm", &["land_binary_mask", "land_area_fraction"], &["land_sea_mask"]),
    flat(
        "z",
        &["surface_geopotential", "geopotential"],
        &["geopotential_at_surface", "zs", "z_sfc", "geopotential", "orog_z"],
    ),
    flat("slt", &["soil_type"], &["soil_type"]),
];

/// The short name of a quantity. Its own name is asked first: files label 2 m and pressure level temperature alike by their standard name.
fn short_name(name: &str, standard_name: Option<&str>, has_level: bool) -> String {
    let here = || QUANTITIES.iter().filter(|q| q.levels == has_level);
    let by_name = |n: &str| here().find(|q| q.short == n || q.aliases.contains(&n));
    let lower = name.to_ascii_lowercase();
    let found = by_name(name).or_else(|| by_name(&lower));
    let found = found.or_else(|| standard_name.and_then(|s| here().find(|q| q.standard.contains(&s))));
    found.map_or_else(|| name.to_string(), |q| q.short.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_quantity_under_all_its_names() {
        for name in ["2t", "t2m", "2m_temperature", "T2M"] {
            assert_eq!(Key::surface(name).name, "2t");
            assert_eq!(Key::of_variable(name, Some("air_temperature"), None).name, "2t");
        }
        for name in ["t", "T", "temperature", "ta"] {
            assert_eq!(Key::level(name, 500), Key { name: "t".into(), level_hpa: Some(500) });
        }
        assert_eq!(Key::of_variable("var130", Some("air_temperature"), Some(850)), Key::level("t", 850));
        assert_eq!(Key::surface("geopotential_at_surface"), Key::surface("z"));
        assert_ne!(Key::surface("z"), Key::level("z", 1000));
        assert_eq!(Key::surface("swh").name, "swh");
    }

    #[test]
    fn no_name_means_two_quantities() {
        for levels in [true, false] {
            let mut names: Vec<&str> = QUANTITIES
                .iter()
                .filter(|q| q.levels == levels)
                .flat_map(|q| {
                    let mut all: Vec<&str> = [q.short].iter().chain(q.aliases).copied().collect();
                    all.sort_unstable();
                    all.dedup();
                    all
                })
                .collect();
            let n = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), n);
        }
    }
}
