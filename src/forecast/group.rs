//! The variables of a file that a model forecasts together: who they are, on which grid, at which times.

use super::frame::Grid;
use super::names::Key;
use super::needs::{Needs, Offer};
use crate::container::limits;
use crate::error::{Context, Error, Result};
use crate::field::Values;
use crate::io::{AttributeValue, Schema, Variable, leaf};
use crate::with_numbers;

/// Variables on one grid and one axis of time.
#[derive(Clone, Debug)]
pub struct Group {
    /// Variables of shape (time, rows, columns) or (time, levels, rows, columns).
    pub members: Vec<Member>,
    /// Variables of shape (rows, columns) that the model looks at.
    pub statics: Vec<(usize, Key)>,
    /// Rows and columns.
    pub grid: Grid,
    /// Seconds since 1970-01-01 00:00 UTC; in calendars other than the Gregorian one since the moment that the file counts from.
    pub times: Vec<i64>,
    /// Steps by their time.
    by_time: Vec<(i64, usize)>,
    /// Whether times are those of the Gregorian calendar.
    pub has_dates: bool,
}

/// A variable that changes with time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Index into the schema.
    pub variable: usize,
    /// Its name in the file, in quotes.
    pub name: String,
    /// What each of its levels is to the model; `None` for those that the model does not know.
    pub keys: Vec<Option<Key>>,
}

/// How a variable takes part, as its plan in the archive has it: the names of its levels.
pub type Role = Vec<Option<Key>>;

impl Group {
    /// The variables of a file that `needs` names. `read` gives all values of a variable: of coordinates only.
    ///
    /// # Errors
    /// `Input` that lists what is missing and what was found, if variables, grid or times do not fit.
    pub fn find(schema: &Schema, needs: &Needs, read: &mut dyn FnMut(usize) -> Result<Values>) -> Result<Self> {
        let Offers { candidates, offers, owners } = Offers::of(schema, read)?;
        let selected = needs.select(&offers)?;
        let mut roles: Vec<Role> = candidates
            .iter()
            .map(|(i, axes)| vec![None; axes.level.map_or(1, |_| schema.variables[*i].shape[1] as usize)])
            .collect();
        // What the model gives but does not look at profits too.
        let keys: Vec<Key> =
            offers.iter().map(|o| Key::of_variable(&o.name, o.standard_name.as_deref(), o.level_hpa)).collect();
        let wanted = selected.into_iter().chain(
            keys.iter()
                .enumerate()
                .filter(|(_, key)| needs.gives.contains(key))
                .map(|(offer, key)| (key.clone(), offer)),
        );
        for (key, offer) in wanted {
            let (c, level) = owners[offer];
            roles[c][level] = Some(key);
        }
        let taking_part = candidates.iter().zip(roles).filter(|(_, role)| role.iter().any(Option::is_some));
        let taking_part: Vec<(usize, Role)> = taking_part.map(|((i, _), role)| (*i, role)).collect();
        Self::new(schema, &taking_part, read)
    }

    /// The variables on the grid and at the times of the first pair of winds, `u` and `v`, of a file; `None` if there is no such pair.
    ///
    /// # Errors
    /// As [`Group::new`].
    pub fn of_winds(schema: &Schema, read: &mut dyn FnMut(usize) -> Result<Values>) -> Result<Option<Self>> {
        let Offers { candidates, offers, owners } = Offers::of(schema, read)?;
        let key = |o: &Offer| Key::of_variable(&o.name, o.standard_name.as_deref(), o.level_hpa);
        let keys: Vec<Key> = offers.iter().map(key).collect();
        let place = |c: usize| {
            let axes = &candidates[c].1;
            axes.time.map(|time| (time, axes.lat, axes.lon))
        };
        let winds = |name: &str| keys.iter().zip(&owners).filter(move |(k, _)| k.name == name).collect::<Vec<_>>();
        let north = winds("v");
        let is_pair = |u: &(&Key, &(usize, usize))| {
            north.iter().any(|v| v.0.level_hpa == u.0.level_hpa && place(v.1.0) == place(u.1.0))
        };
        let pair = winds("u").into_iter().find(is_pair).and_then(|u| place(u.1.0));
        let Some(pair) = pair else { return Ok(None) };
        let mut roles: Vec<(usize, Role)> = vec![];
        for (c, (i, _)) in candidates.iter().enumerate() {
            if place(c) == Some(pair) {
                roles.push((
                    *i,
                    keys.iter().zip(&owners).filter(|(_, o)| o.0 == c).map(|(k, _)| Some(k.clone())).collect(),
                ));
            }
        }
        Self::new(schema, &roles, read).map(Some)
    }

    /// Of variables whose roles are known.
    ///
    /// # Errors
    /// `Input` if they do not share grid and times, or coordinates mean nothing.
    pub fn new(
        schema: &Schema,
        roles: &[(usize, Role)],
        read: &mut dyn FnMut(usize) -> Result<Values>,
    ) -> Result<Self> {
        let mut members = vec![];
        let mut statics = vec![];
        let mut common: Option<(u32, u32)> = None;
        let mut time: Option<u32> = None;
        for (i, keys) in roles {
            let v =
                schema.variables.get(*i).ok_or_else(|| Error::corrupt("forecasts of a variable that is not there"))?;
            let name = || format!("variable {:?}", v.name());
            let axes = Axes::of(schema, v).ok_or_else(|| Error::input("is not on a grid of latitude and longitude"));
            let axes = axes.context(name)?;
            let n_levels = axes.level.map_or(1, |_| v.shape.get(1).map_or(0, |&n| n as usize));
            if *common.get_or_insert((axes.lat, axes.lon)) != (axes.lat, axes.lon) || keys.len() != n_levels {
                return Err(Error::input("is not on the grid of the other fields of the model")).context(name);
            }
            match axes.time {
                Some(t) if *time.get_or_insert(t) != t => {
                    return Err(Error::input("is not at the times of the other fields of the model")).context(name);
                }
                Some(_) => members.push(Member { variable: *i, name: format!("{:?}", v.name()), keys: keys.clone() }),
                None => {
                    check_len(v).context(name)?;
                    statics.extend(keys.iter().flatten().take(1).map(|key| (*i, key.clone())));
                }
            }
        }
        let (Some((lat, lon)), Some(time)) = (common, time) else {
            return Err(Error::input(
                "no variable of the model changes with time here: it needs a dimension whose coordinate has units \"... since ...\"",
            ));
        };
        let grid =
            Grid::new(floats(schema, coordinate(schema, lat), read)?, floats(schema, coordinate(schema, lon), read)?)?;
        let (times, has_dates) = times(schema, time, read)?;
        let (rows, columns) = grid.shape();
        if roles.iter().any(|(i, _)| !schema.variables[*i].shape.ends_with(&[rows as u64, columns as u64])) {
            return Err(Error::input("coordinates do not match the variables"));
        }
        let variables = members.iter().map(|m| &schema.variables[m.variable]);
        if variables.into_iter().any(|v| v.shape.first() != Some(&(times.len() as u64))) {
            return Err(Error::input("times do not match the variables"));
        }
        let by_time = Self::sorted(&times);
        Ok(Self { members, statics, grid, times, has_dates, by_time })
    }

    /// A step with its time, for messages.
    pub fn moment(&self, step: usize) -> String {
        let time = self.times.get(step).copied().unwrap_or_default();
        format!("step {step} ({})", if self.has_dates { date(time) } else { format!("{time} s") })
    }

    /// The steps that a forecast of step `t` looks back on, oldest first, all of them from `first` on; `None` if there are none such.
    pub fn history(&self, needs: &Needs, first: usize, t: usize) -> Option<Vec<usize>> {
        let mut steps = vec![];
        for back in (1..=needs.history as i64).rev() {
            let time = self.times[t] - back * needs.step_s;
            let from = self.by_time.partition_point(|&at| at < (time, first));
            steps.push(self.by_time.get(from).filter(|at| at.0 == time && at.1 < t)?.1);
        }
        Some(steps)
    }

    /// Whether a forecast of a step after `now` may look back on step `s`.
    pub fn is_needed(&self, needs: &Needs, s: usize, now: usize) -> bool {
        (1..=needs.history as i64).any(|back| {
            let time = self.times[s].saturating_add(back * needs.step_s);
            let until = self.by_time.partition_point(|&at| at <= (time, usize::MAX));
            until.checked_sub(1).is_some_and(|last| self.by_time[last].0 == time && self.by_time[last].1 > now)
        })
    }

    /// Of members at times of the usual calendar.
    #[cfg(test)]
    pub fn at(members: Vec<Member>, grid: Grid, times: Vec<i64>) -> Self {
        let by_time = Self::sorted(&times);
        Self { members, statics: vec![], grid, times, has_dates: true, by_time }
    }

    /// Steps by their time, those of the same time ascending.
    fn sorted(times: &[i64]) -> Vec<(i64, usize)> {
        let mut all: Vec<(i64, usize)> = times.iter().copied().zip(0..).collect();
        all.sort_unstable();
        all
    }
}

/// The floating-point variables on grids, and each of their levels.
struct Offers {
    /// Variables, by their index.
    candidates: Vec<(usize, Axes)>,
    offers: Vec<Offer>,
    /// For each offer the candidate and its level.
    owners: Vec<(usize, usize)>,
}

impl Offers {
    fn of(schema: &Schema, read: &mut dyn FnMut(usize) -> Result<Values>) -> Result<Self> {
        let mut candidates = vec![];
        for (i, v) in schema.variables.iter().enumerate() {
            if let Some(axes) = Axes::of(schema, v).filter(|_| v.dtype.is_float()) {
                candidates.push((i, axes));
            }
        }
        let mut offers = vec![];
        let mut owners = vec![];
        for (c, (i, axes)) in candidates.iter().enumerate() {
            let v = &schema.variables[*i];
            let levels = match axes.level {
                None => vec![None],
                Some(d) => levels(schema, d, v.shape[1], read)?.into_iter().map(Some).collect(),
            };
            for (k, level_hpa) in levels.into_iter().enumerate() {
                let standard_name = match v.attribute("standard_name") {
                    Some(AttributeValue::Text(t)) => Some(t.clone()),
                    _ => None,
                };
                offers.push(Offer { name: leaf(&v.path).to_string(), standard_name, level_hpa });
                owners.push((c, k));
            }
        }
        Ok(Self { candidates, offers, owners })
    }
}

/// `2020-01-04 06:00:00 UTC`
fn date(unix_s: i64) -> String {
    let (days, s) = (unix_s.div_euclid(86_400) + 719_468, unix_s.rem_euclid(86_400));
    // The inverse of what `epoch` does.
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let m = (5 * day + 2) / 153;
    let (day, month) = (day - (153 * m + 2) / 5 + 1, if m < 10 { m + 3 } else { m - 9 });
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC", s / 3600, s / 60 % 60, s % 60)
}

/// The dimensions of a variable by what they are.
struct Axes {
    time: Option<u32>,
    level: Option<u32>,
    lat: u32,
    lon: u32,
}

impl Axes {
    fn of(schema: &Schema, v: &Variable) -> Option<Self> {
        let [leading @ .., lat, lon] = &v.dimensions[..] else { return None };
        let is =
            |d: u32, what: fn(&Variable) -> bool| coordinate(schema, d).is_some_and(|c| what(&schema.variables[c]));
        if v.dimensions.len() != v.shape.len() || !is(*lat, is_latitude) || !is(*lon, is_longitude) {
            return None;
        }
        let (time, level) = match *leading {
            [] => (None, None),
            [time] if is(time, is_time) => (Some(time), None),
            [time, level] if is(time, is_time) => (Some(time), Some(level)),
            _ => return None,
        };
        Some(Self { time, level, lat: *lat, lon: *lon })
    }
}

/// The variable that gives the places of a dimension.
fn coordinate(schema: &Schema, dimension: u32) -> Option<usize> {
    let path = &schema.dimensions.get(dimension as usize)?.path;
    schema.variables.iter().position(|v| v.dimensions == [dimension] && leaf(&v.path) == leaf(path))
}

fn text<'a>(v: &'a Variable, attribute: &str) -> &'a str {
    match v.attribute(attribute) {
        Some(AttributeValue::Text(t)) => t.trim(),
        Some(AttributeValue::Texts(t)) => t.first().map_or("", |t| t.trim()),
        _ => "",
    }
}

fn is_latitude(v: &Variable) -> bool {
    text(v, "standard_name") == "latitude"
        || text(v, "units").starts_with("degrees_n")
        || matches!(leaf(&v.path), "lat" | "latitude")
}

fn is_longitude(v: &Variable) -> bool {
    text(v, "standard_name") == "longitude"
        || text(v, "units").starts_with("degrees_e")
        || matches!(leaf(&v.path), "lon" | "longitude")
}

fn is_time(v: &Variable) -> bool {
    text(v, "units").contains(" since ")
}

/// Refuses coordinates and static fields that nobody has: they are in memory whole, and an archive may promise any number of values.
fn check_len(v: &Variable) -> Result<()> {
    match v.len() {
        n if n <= limits::MAX_TILE_VALUES => Ok(()),
        n => Err(Error::input(format!(
            "{n} values of what the forecasts need whole: there can be {}",
            limits::MAX_TILE_VALUES
        ))),
    }
}

#[allow(clippy::unnecessary_cast)] // of each type of number one is it already
fn floats(schema: &Schema, variable: Option<usize>, read: &mut dyn FnMut(usize) -> Result<Values>) -> Result<Vec<f64>> {
    let i = variable.ok_or_else(|| Error::input("a dimension has no coordinate variable"))?;
    let name = || format!("variable {:?}", schema.variables[i].name());
    let no_numbers = || Error::input("coordinates are no numbers");
    check_len(&schema.variables[i]).context(name)?;
    let values = read(i).context(name)?;
    with_numbers!(&values, v => Ok(v.iter().map(|&x| x as f64).collect()), text => Err(no_numbers())).context(name)
}

/// Levels in hPa; those of a model, which are parts of the pressure at the ground, in thousandths.
/// Levels without a coordinate, or whose places in these units are the same, go by their number, below any pressure.
fn levels(schema: &Schema, dimension: u32, n: u64, read: &mut dyn FnMut(usize) -> Result<Values>) -> Result<Vec<u32>> {
    let by_number = || (0..n as u32).map(|k| NUMBERED + k).collect();
    let Some(c) = coordinate(schema, dimension) else { return Ok(by_number()) };
    let values = floats(schema, Some(c), read)?;
    let units = text(&schema.variables[c], "units");
    let scale = match units {
        "Pa" => 0.01,
        _ if values.iter().all(|&x| (0.0..=1.1).contains(&x)) => 1000.0,
        _ => 1.0,
    };
    let levels: Vec<u32> = values.iter().map(|x| (x * scale).round().clamp(0.0, 1e6) as u32).collect();
    let mut distinct = levels.clone();
    distinct.sort_unstable();
    distinct.dedup();
    Ok(if distinct.len() == n as usize && levels.len() == n as usize { levels } else { by_number() })
}

/// Levels from here on are numbers, not pressures.
const NUMBERED: u32 = 1 << 24;

/// Times in seconds since 1970, and whether they are those of the Gregorian calendar.
fn times(schema: &Schema, dimension: u32, read: &mut dyn FnMut(usize) -> Result<Values>) -> Result<(Vec<i64>, bool)> {
    let c = coordinate(schema, dimension);
    let Some(v) = c.map(|c| &schema.variables[c]) else { return Err(Error::input("no coordinate of time")) };
    let name = || format!("variable {:?}", v.name());
    let (units, calendar) = (text(v, "units"), text(v, "calendar").to_ascii_lowercase());
    let has_dates = matches!(&calendar[..], "" | "standard" | "gregorian" | "proleptic_gregorian");
    let (seconds, start) = epoch(units)
        .ok_or_else(|| Error::input(format!("{units:?} are no units of time that this version knows")))
        .context(name)?;
    let times = floats(schema, c, read)?;
    let times = times.iter().map(|x| start + (x * seconds).round().clamp(-1e15, 1e15) as i64).collect();
    Ok((times, has_dates))
}

/// Seconds of a unit and the moment that it counts from: `hours since 1900-01-01 00:00:0.0`.
fn epoch(units: &str) -> Option<(f64, i64)> {
    let (unit, since) = units.split_once(" since ")?;
    let seconds = match unit.trim().to_ascii_lowercase().trim_end_matches('s') {
        "day" | "d" => 86_400.0,
        "hour" | "hr" | "h" => 3_600.0,
        "minute" | "min" => 60.0,
        "second" | "sec" | "" => 1.0,
        _ => return None,
    };
    let mut words = since.trim().splitn(2, [' ', 'T']);
    let mut date = words.next()?.splitn(3, '-').map(|x| x.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    if !(0..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let clock = words.next().unwrap_or("").trim().trim_end_matches("UTC").trim_end_matches('Z').trim();
    let mut of_day = 0.0;
    for (part, unit) in clock.split(':').zip([3_600.0, 60.0, 1.0]).filter(|(part, _)| !part.is_empty()) {
        of_day += part.parse::<f64>().ok().filter(|x| (0.0..86_400.0).contains(x))? * unit;
    }
    // Days from March of year 0 on, in cycles of 400 years (H. Hinnant, "chrono-compatible low-level date algorithms").
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, of_era) = (y.div_euclid(400), y.rem_euclid(400));
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + (153 * m + 2) / 5 + day - 1 - 719_468;
    Some((seconds, days * 86_400 + of_day as i64))
}

#[cfg(test)]
mod tests {
    use super::{date, epoch, floats};
    use crate::field::DType;
    use crate::io::{Format, Schema};

    #[test]
    fn coordinates_of_any_size_are_not_read() {
        let schema = Schema::single(Format::Raw, "lat", DType::F64, &[1 << 40]);
        let e = floats(&schema, Some(0), &mut |_| unreachable!("too large")).unwrap_err();
        assert!(e.to_string().contains("67108864"), "{e}");
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for day in (-200_000..200_000).step_by(7) {
            let text = date(day * 86_400 + 3_661);
            let (ymd, _) = text.split_once(' ').unwrap();
            if let Some((1.0, start)) = epoch(&format!("seconds since {ymd}")) {
                assert_eq!(start, day * 86_400, "{text}");
                assert!(text.ends_with(" 01:01:01 UTC"));
            }
        }
        assert_eq!(date(951_782_400), "2000-02-29 00:00:00 UTC");
    }

    #[test]
    fn units_of_time() {
        for (units, expected) in [
            ("seconds since 1970-01-01", Some((1.0, 0))),
            ("hours since 1900-01-01 00:00:0.0", Some((3600.0, -2_208_988_800))),
            ("days since 2000-02-29T12:00:00Z", Some((86_400.0, 951_825_600))),
            ("Hours since 2023-1-10 6:30", Some((3600.0, 1_673_332_200))),
            ("months since 2000-01-01", None),
            ("days since yesterday", None),
            ("days", None),
        ] {
            assert_eq!(epoch(units), expected, "{units}");
        }
    }
}
