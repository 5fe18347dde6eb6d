//! Where is this variable in RAM? The library instead of the command line.
//!
//! As root: `cargo run --example translate`

use anyhow::{Context as _, Result, ensure};
use v2p::{
    process::{Pagemap, maps},
    translate::{Page, Route, Translator},
};

fn main() -> Result<()> {
    let variable = Box::new([1u8; 10_000]);
    let address = variable.as_ptr() as u64;

    let pid = std::process::id();
    let mappings = maps::mappings(pid)?;
    let mapping = mappings
        .iter()
        .find(|m| (m.start..m.end).contains(&address))
        .context("no mapping has the variable")?;

    let mut translator = Translator::new(Route::Auto)?;
    let pagemap = Pagemap::of_self()?;
    let mut found = None;
    let alive = translator.mapping(&pagemap, mapping, &mut |page: Page, pages| {
        let end = page.va.0 + pages * 4096;
        if (page.va.0..end).contains(&address) {
            found = Some(page);
        }
        Ok(())
    })?;
    ensure!(alive, "we have no address space");
    let page = found.context("the page was not read")?;
    println!(
        "{address:#x} in {} is {:?}, {:?}",
        mapping.name, page.state, page.verdict
    );
    Ok(())
}
