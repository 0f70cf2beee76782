//! Prepares what the rig takes from this project itself: `prepare-rig DIRECTORY` fetches
//! and prepares the kernel into the data directory `DIRECTORY/data`.

use std::error::Error;
use std::path::PathBuf;

use wslr::config::paths::Paths;
use wslr::download::Fetcher;
use wslr::kernel;
use wslr::terminal::progress::Progress;

fn main() -> Result<(), Box<dyn Error>> {
    let directory = std::env::args_os().nth(1).ok_or("usage: prepare-rig DIRECTORY")?;
    let paths = Paths::below(&PathBuf::from(directory));
    let source = kernel::update::source(None);
    let updated = kernel::update(&paths, &source, &Fetcher::new()?, &Progress::on_terminal())?;
    println!("{}", updated.release);
    Ok(())
}
