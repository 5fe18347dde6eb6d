//! A picture as a list of shapes, so that SVG and PNG show the same. Pure.

use super::layout::Place;

/// Red, green, blue.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Colour(pub u8, pub u8, pub u8);

impl Colour {
    /// `tenths` tenths of this colour over `ground`.
    #[must_use]
    pub fn over(self, ground: Self, tenths: u16) -> Self {
        let mix = |a: u8, b: u8| {
            let sum = u16::from(a) * tenths.min(10) + u16::from(b) * (10 - tenths.min(10));
            u8::try_from(sum / 10).unwrap_or(u8::MAX)
        };
        Self(
            mix(self.0, ground.0),
            mix(self.1, ground.1),
            mix(self.2, ground.2),
        )
    }
}

/// How large letters are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Size {
    /// 7 by 13 pixels.
    Small,
    /// The same, bold.
    Bold,
    /// 9 by 18 pixels, bold.
    Title,
}

impl Size {
    /// Pixels from one letter to the next.
    pub const fn advance(self) -> u32 {
        match self {
            Self::Small | Self::Bold => 7,
            Self::Title => 9,
        }
    }
}

/// A shape. All numbers are pixels.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Shape {
    /// Rectangles of one colour and height.
    Fill {
        /// The colour.
        colour: Colour,
        /// What they are, for who points at one.
        title: String,
        /// The rectangles.
        places: Vec<Place>,
    },
    /// The edges of rectangles, inside of them, a pixel wide.
    Edges {
        /// The colour.
        colour: Colour,
        /// The rectangles.
        places: Vec<Place>,
    },
    /// A line of letters of one width.
    Text {
        /// Where it begins, or ends where `right`.
        x: u32,
        /// Its base line.
        y: u32,
        /// The letters.
        text: String,
        /// Their size.
        size: Size,
        /// Their colour.
        colour: Colour,
        /// Whether `x` is its end.
        right: bool,
    },
    /// An arrow.
    Arrow {
        /// Where it begins.
        from: (u32, u32),
        /// Where its head is.
        to: (u32, u32),
        /// Its colour.
        colour: Colour,
    },
}

/// Shapes on white, the later over the earlier.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Picture {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// One line that says what it shows.
    pub title: String,
    /// The same for programs: JSON.
    pub numbers: String,
    /// What is there.
    pub shapes: Vec<Shape>,
}

impl Picture {
    /// Adds letters of the text's colour from `x` on.
    pub fn text(&mut self, x: u32, y: u32, size: Size, text: impl Into<String>) {
        self.letters(x, y, size, INK, false, text.into());
    }

    /// Adds pale letters that end at `x`.
    pub fn label(&mut self, x: u32, y: u32, text: impl Into<String>) {
        self.letters(x, y, Size::Small, PALE_INK, true, text.into());
    }

    /// Adds small letters that end at `x`.
    pub fn number(&mut self, x: u32, y: u32, text: impl Into<String>) {
        self.letters(x, y, Size::Small, INK, true, text.into());
    }

    /// Adds pale small letters from `x` on.
    pub fn note(&mut self, x: u32, y: u32, text: impl Into<String>) {
        self.letters(x, y, Size::Small, PALE_INK, false, text.into());
    }

    fn letters(&mut self, x: u32, y: u32, size: Size, colour: Colour, right: bool, text: String) {
        if text.is_empty() {
            return;
        }
        self.shapes.push(Shape::Text {
            x,
            y,
            text,
            size,
            colour,
            right,
        });
    }

    /// Adds one rectangle.
    pub fn fill(&mut self, colour: Colour, place: Place) {
        self.shapes.push(Shape::Fill {
            colour,
            title: String::new(),
            places: vec![place],
        });
    }
}

/// Letters.
pub const INK: Colour = Colour(33, 37, 41);
/// Letters that matter less.
pub const PALE_INK: Colour = Colour(108, 117, 125);

/// Pixels of an arrow's head.
const HEAD: f64 = 7.0;

/// Where the two strokes of an arrow's head begin.
pub fn head(from: (u32, u32), to: (u32, u32)) -> [(i32, i32); 2] {
    let (x, y) = (f64::from(to.0), f64::from(to.1));
    let back = (f64::from(from.1) - y).atan2(f64::from(from.0) - x);
    [back - 0.45, back + 0.45].map(|angle| {
        (
            rounded(x + HEAD * angle.cos()),
            rounded(y + HEAD * angle.sin()),
        )
    })
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a place on a picture; what is beyond ends at the edge"
)]
const fn rounded(x: f64) -> i32 {
    x.round() as i32
}
