//! `residuum decompress`.

use super::args::{DecompressArgs, format_name};
use super::input;
use super::output::{self, NamedSink};
use super::progress::Bar;
use super::table;
use super::{coder, note, note_coder, print, set_forecasts, set_threads};
use crate::container::Archive;
use crate::decompress::decompress_to;
use crate::error::{Context, Error, Kind, Result};
use crate::io::select::Selection;
use crate::io::{self, Format};
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Restores an archive.
pub fn run(args: &DecompressArgs) -> Result<ExitCode> {
    let name = || input::name_of(&args.archive);
    let target = target(args)?;
    // No output may take the place of anything that the call reads.
    let read: Vec<&Path> = std::iter::once(&args.archive).chain(&args.forecast).map(PathBuf::as_path).collect();
    output::check(&target, &read, args.force)?;
    set_threads(args.common.threads)?;
    let file = input::open_archive_file(&args.archive).context(name)?;
    let mut archive = if args.recover { Archive::recover(file) } else { Archive::open(file) }.context(name)?;

    archive.set_coder(coder(args.device)?);
    set_forecasts(&mut archive, args.forecast.as_deref(), args.device).context(name)?;

    let format = args.format.unwrap_or_else(|| format_for(&target, archive.schema().format));
    let says_nothing = target.extension().is_some() && io::format_of_path(&target).is_none();
    if args.format.is_none() && args.output.is_some() && says_nothing && format != Format::Raw {
        let (target, format) = (target.display(), format_name(format));
        note(&format!(
            "note: {target}: an ending that says no format: it becomes {format}, as what was compressed (--format)"
        ));
    }
    let selection = select(&archive, format, args).context(name)?;
    let mut sink = NamedSink::create(&target, &selection.schema, format, args.force)?;
    let mut bar = Bar::new(&selection.schema, args.common.quiet);
    let result = decompress_to(&mut archive, &selection.parts, &mut sink, &mut |p| bar.step(p));
    let (value_bytes, time) = bar.finish();
    let is_whole = match result {
        Err(_) if sink.is_abandoned() => false,
        Err(e) if sink.failed() => return Err(e),
        result => result.context(name).and_then(|()| sink.complete())?,
    };
    note_coder(archive.coder());
    #[cfg(feature = "forecast")]
    archive.forecast_notes().iter().for_each(|n| note(&format!("note: {n}")));
    for (variable, tile, whole) in archive.damaged() {
        let name = archive.schema().variables[variable].name();
        let mut region = archive.variable(variable)?.plan.tiling.region(tile);
        if let Some(steps) = region.first_mut() {
            steps.start += whole;
        }
        let region = region.iter().map(|r| format!("{}:{}", r.start, r.end)).collect::<Vec<_>>().join(",");
        note(&format!("warning: variable {name:?}: tile {tile} is damaged: its values, {region}, are filled in"));
    }
    if !is_whole {
        // Whoever read it has left: nothing to say.
        return Ok(ExitCode::from(Kind::Io.exit_code()));
    }

    if !args.common.quiet {
        let n = selection.schema.variables.len();
        let of = format!("{n} variable{}, {}", if n == 1 { "" } else { "s" }, table::bytes(value_bytes));
        let line = format!("{} -> {}: {of}, {}", name(), output::name_of(&target), table::speed(value_bytes, time));
        if output::is_stream(&target) {
            note(&line);
        } else {
            print(&format!("{line}\n"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Where the restored file goes.
fn target(args: &DecompressArgs) -> Result<PathBuf> {
    let stem = || match args.archive.extension() {
        Some(e) if e == "rsd" => args.archive.file_stem().map(PathBuf::from),
        _ => None,
    };
    if let Some(output) = args.output.as_ref().filter(|o| io::format_of_path(o) != Some(Format::Zarr3)) {
        output::check_folder(output)?;
    }
    let into_folder = |folder: &Path| {
        let name = || format!("{}: {} does not end in .rsd", folder.display(), input::name_of(&args.archive));
        stem().map(|s| folder.join(s)).ok_or_else(|| Error::usage(format!("{}: name a file in that folder", name())))
    };
    match &args.output {
        Some(folder) if folder.is_dir() && !is_zarr(folder) => return into_folder(folder),
        Some(output) => Some(output.clone()),
        None => stem().map(|s| args.archive.with_file_name(s)),
    }
    .ok_or_else(|| Error::usage(format!("{}: name the output with -o", input::name_of(&args.archive))))
}

/// Whether a folder is a store that would be replaced, rather than a place to put things into.
fn is_zarr(folder: &Path) -> bool {
    io::format_of_path(folder) == Some(Format::Zarr3) || io::part::is_zarr_store(folder)
}

/// The format that a path asks for, given that of the source: `.nc` is the NetCDF that the source was, if it was one.
fn format_for(path: &Path, source: Format) -> Format {
    let is_netcdf = |f| matches!(f, Format::NetCdf3 | Format::NetCdf3Offset64 | Format::NetCdf5 | Format::NetCdf4);
    let is_zarr = |f| matches!(f, Format::Zarr2 | Format::Zarr3);
    match io::format_of_path(path) {
        Some(named) if is_netcdf(named) && is_netcdf(source) => source,
        Some(named) if is_zarr(named) && is_zarr(source) => source,
        Some(named) => named,
        None => source,
    }
}

/// The variables and boxes wanted, as far as they are there.
fn select(archive: &Archive<BufReader<File>>, format: Format, args: &DecompressArgs) -> Result<Selection> {
    let mut selection = Selection::all(archive.schema());
    if !args.var.is_empty() {
        let with_coordinates = !matches!(format, Format::Npy | Format::Raw);
        selection.keep(&args.var, with_coordinates)?;
    }
    for (i, range) in args.range.iter().enumerate() {
        if args.range[..i].iter().any(|r| r.dimension == range.dimension) {
            return Err(Error::usage(format!("--range {} is there twice", range.dimension)));
        }
        selection.crop(range)?;
    }
    if args.recover {
        recover(archive, &mut selection);
    }
    // A file of nothing but dimensions and attributes is one too, where the format can hold it.
    let is_empty_file = archive.schema().variables.is_empty() && !matches!(format, Format::Npy | Format::Raw);
    if selection.parts.is_empty() && !is_empty_file {
        return Err(Error::corrupt("nothing of what is wanted can be restored"));
    }
    if selection.parts.len() > 1 && matches!(format, Format::Npy | Format::Raw) {
        let names: Vec<_> = selection.schema.variables.iter().map(io::Variable::name).collect();
        return Err(Error::usage(format!(
            "{} holds one variable: pick one with --var ({})",
            format_name(format),
            names.join(", ")
        )));
    }
    Ok(selection)
}

/// Leaves out what an incomplete archive lacks, with a warning for each variable.
fn recover(archive: &Archive<BufReader<File>>, selection: &mut Selection) {
    let mut kept = vec![true; selection.parts.len()];
    for (i, kept) in kept.iter_mut().enumerate() {
        let name = selection.schema.variables[i].name().to_string();
        let before = selection.schema.variables[i].shape.clone();
        let there = archive.variable(selection.parts[i].0).map(|v| v.plan.tiling.first_axis_held(v.n_tiles()));
        *kept = there.as_ref().is_ok_and(|&n| selection.shorten(i, n));
        let after = &selection.schema.variables[i].shape;
        if !*kept {
            note(&format!("warning: variable {name:?} is left out: nothing of it is whole"));
        } else if let ([n, ..], [of, ..]) = (&after[..], &before[..])
            && n < of
        {
            note(&format!("warning: variable {name:?} is cut: {n} of {of} along its first dimension"));
        }
    }
    selection.retain(|i| kept[i]);
}
