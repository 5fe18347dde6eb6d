//! Names of programs, held to the object.

use std::collections::BTreeSet;

use object::{Object as _, ObjectSymbol as _, SymbolKind, SymbolScope};
use v2p_common::witness::Function;

use super::{CARRIER, FaultKind, HELPING, Kind, OBJECT, followed::FOLLOWED};

/// The names of all programs in the object.
pub(crate) fn programs() -> BTreeSet<&'static str> {
    let file = object::File::parse(OBJECT).unwrap();
    // What programs call, such as memcpy, is hidden.
    let is_program = |kind, scope| kind == SymbolKind::Text && scope == SymbolScope::Dynamic;
    file.symbols()
        .filter(|symbol| is_program(symbol.kind(), symbol.scope()))
        .map(|symbol| symbol.name().unwrap())
        .collect()
}

#[test]
fn programs_that_are_asked_for_by_name_are_in_the_object() {
    let faults = [FaultKind::Begins, FaultKind::Minor, FaultKind::Major].map(FaultKind::program);
    let kinds = Kind::ALL.map(Kind::program);
    let functions = Function::ALL.map(Function::name);
    let named = [&[CARRIER][..], &HELPING, &faults, &kinds, &functions].concat();
    let programs = programs();
    for name in named {
        assert!(programs.contains(name), "{name}");
    }
}

#[test]
fn a_map_that_nothing_misses_where_it_is_not_is_in_the_object() {
    let file = object::File::parse(OBJECT).unwrap();
    let mut names = file.symbols().filter_map(|symbol| symbol.name().ok());
    assert!(names.any(|name| name == FOLLOWED));
}
