//! The command as users meet it: files in, files out, exit statuses, and what is on the disk when something goes wrong.

mod evaluate;
mod fill_values;
mod parts;
mod recovery;
mod refusals;
mod reports;
mod round_trips;
mod safety;
mod streams;
mod suggest;
mod support;
