//! Which way is taken.

/// Which way from an address to its frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Route {
    /// Both where this kernel and these privileges allow it, else pagemap.
    Auto,
    /// /proc/PID/pagemap.
    Pagemap,
    /// An eBPF walk of the page tables.
    Walk,
    /// Both, compared.
    Both,
}

impl Route {
    /// Its word; of [`Self::Auto`] that of the one that is left where the walk is not.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Walk => "walk",
            Self::Both => "both",
            Self::Pagemap | Self::Auto => "pagemap",
        }
    }
}
