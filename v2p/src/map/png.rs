//! A picture as PNG: drawn pixel by pixel, with letters that come with the program.

use std::convert::Infallible;

use anyhow::{Context as _, Result};
use embedded_graphics::{
    Drawable as _, Pixel,
    draw_target::DrawTarget,
    geometry::{OriginDimensions, Point, Size as Area},
    mono_font::{MonoTextStyle, iso_8859_1 as fonts},
    pixelcolor::{Rgb888, RgbColor as _},
    primitives::{Line, Primitive as _, PrimitiveStyle, Rectangle},
    text::{Alignment, Text},
};

use super::{
    layout::Place,
    picture::{Colour, Picture, Shape, Size, head},
};

/// The file's bytes.
///
/// # Errors
/// Where the picture is too large to be drawn.
pub fn write(picture: &Picture) -> Result<Vec<u8>> {
    let mut canvas =
        Canvas::new(picture.width, picture.height).context("the picture is too large")?;
    for shape in &picture.shapes {
        let Ok(()) = canvas.draw(shape);
    }
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, picture.width, picture.height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::High);
    encoder.add_itxt_chunk("Title".to_owned(), picture.title.clone())?;
    encoder.add_itxt_chunk("Comment".to_owned(), picture.numbers.clone())?;
    let mut writer = encoder.write_header().context("PNG")?;
    writer.write_image_data(&canvas.bytes).context("PNG")?;
    writer.finish().context("PNG")?;
    Ok(bytes)
}

/// Pixels, three bytes each.
struct Canvas {
    width: u32,
    height: u32,
    bytes: Vec<u8>,
}

impl Canvas {
    fn new(width: u32, height: u32) -> Option<Self> {
        let bytes = usize::try_from(u64::from(width) * u64::from(height) * 3).ok()?;
        Some(Self {
            width,
            height,
            bytes: vec![255; bytes],
        })
    }

    fn draw(&mut self, shape: &Shape) -> Result<(), Infallible> {
        match shape {
            Shape::Fill { colour, places, .. } => places
                .iter()
                .try_for_each(|place| self.fill_solid(&rectangle(*place), rgb(*colour))),
            Shape::Edges { colour, places } => {
                let style = PrimitiveStyle::with_stroke(rgb(*colour), 1);
                let style = embedded_graphics::primitives::PrimitiveStyleBuilder::from(&style)
                    .stroke_alignment(embedded_graphics::primitives::StrokeAlignment::Inside)
                    .build();
                places
                    .iter()
                    .try_for_each(|place| rectangle(*place).into_styled(style).draw(self))
            }
            Shape::Text {
                x,
                y,
                text,
                size,
                colour,
                right,
            } => {
                let font = match size {
                    Size::Small => &fonts::FONT_7X13,
                    Size::Bold => &fonts::FONT_7X13_BOLD,
                    Size::Title => &fonts::FONT_9X18_BOLD,
                };
                let style = MonoTextStyle::new(font, rgb(*colour));
                let side = if *right {
                    Alignment::Right
                } else {
                    Alignment::Left
                };
                // A line break in a name would be one here.
                let text: String = text
                    .chars()
                    .map(|c| if c.is_control() { '?' } else { c })
                    .collect();
                Text::with_alignment(&text, point((*x, *y)), style, side)
                    .draw(self)
                    .map(|_| ())
            }
            Shape::Arrow { from, to, colour } => {
                let style = PrimitiveStyle::with_stroke(rgb(*colour), 1);
                let tip = point(*to);
                Line::new(point(*from), tip).into_styled(style).draw(self)?;
                head(*from, *to).into_iter().try_for_each(|(x, y)| {
                    Line::new(Point::new(x, y), tip)
                        .into_styled(style)
                        .draw(self)
                })
            }
        }
    }
}

fn rgb(Colour(r, g, b): Colour) -> Rgb888 {
    Rgb888::new(r, g, b)
}

fn point((x, y): (u32, u32)) -> Point {
    Point::new(
        i32::try_from(x).unwrap_or(i32::MAX),
        i32::try_from(y).unwrap_or(i32::MAX),
    )
}

fn rectangle(Place { x, y, w, h }: Place) -> Rectangle {
    Rectangle::new(point((x, y)), Area::new(w, h))
}

impl OriginDimensions for Canvas {
    fn size(&self) -> Area {
        Area::new(self.width, self.height)
    }
}

impl DrawTarget for Canvas {
    type Color = Rgb888;
    type Error = Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<Rgb888>>>(
        &mut self,
        pixels: I,
    ) -> Result<(), Infallible> {
        for Pixel(Point { x, y }, colour) in pixels {
            let (Ok(x), Ok(y)) = (u32::try_from(x), u32::try_from(y)) else {
                continue;
            };
            if x >= self.width || y >= self.height {
                continue;
            }
            let at = (u64::from(y) * u64::from(self.width) + u64::from(x)) * 3;
            let at = usize::try_from(at).unwrap_or(usize::MAX);
            if let Some(pixel) = self.bytes.get_mut(at..at.saturating_add(3)) {
                pixel.copy_from_slice(&[colour.r(), colour.g(), colour.b()]);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_drawn_is_read_back() {
        let red = Colour(200, 0, 0);
        let mut picture = Picture {
            width: 40,
            height: 30,
            title: "a picture".to_owned(),
            numbers: "{\"ü\":1}".to_owned(),
            shapes: Vec::new(),
        };
        let place = Place {
            x: 2,
            y: 3,
            w: 4,
            h: 5,
        };
        picture.fill(red, place);
        // Over the edge on all sides.
        picture.fill(
            red,
            Place {
                x: 39,
                y: 29,
                w: 9,
                h: 9,
            },
        );
        picture.text(38, 12, Size::Title, "x\ny\u{4e00}");
        let bytes = write(&picture).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(bytes))
            .read_info()
            .unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        let is_red = |x: usize, y: usize| pixels[(y * 40 + x) * 3..][..3] == [200, 0, 0];
        let reds = (0..30)
            .flat_map(|y| (0..40).map(move |x| (x, y)))
            .filter(|(x, y)| is_red(*x, *y))
            .count();
        assert_eq!(reds, 4 * 5 + 1);
        assert!(is_red(2, 3) && is_red(5, 7));
    }
}
