//! A picture as SVG. Pure.

use std::fmt::Write as _;

use super::{
    layout::Place,
    picture::{Colour, Picture, Shape, Size},
};

/// The file's text.
pub fn write(picture: &Picture) -> String {
    let mut out = String::new();
    // A String takes everything.
    let _ = document(&mut out, picture);
    out
}

fn document(out: &mut String, picture: &Picture) -> std::fmt::Result {
    let Picture {
        width,
        height,
        title,
        numbers,
        shapes,
    } = picture;
    writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"'DejaVu Sans Mono','Liberation Mono',Menlo,Consolas,monospace\" shape-rendering=\"crispEdges\">"
    )?;
    writeln!(out, "<title>{}</title>", Escaped(title))?;
    writeln!(out, "<metadata>{}</metadata>", Escaped(numbers))?;
    writeln!(
        out,
        "<rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>"
    )?;
    for shape in shapes {
        self::shape(out, shape)?;
    }
    out.push_str("</svg>\n");
    Ok(())
}

fn shape(out: &mut String, shape: &Shape) -> std::fmt::Result {
    match shape {
        Shape::Fill {
            colour,
            title,
            places,
        } => fill(out, *colour, title, places),
        Shape::Edges { colour, places } => {
            write!(out, "<path fill=\"none\" stroke=\"{}\" d=\"", Css(*colour))?;
            for Place { x, y, w, h } in places {
                let (w, h) = (w.saturating_sub(1), h.saturating_sub(1));
                write!(out, "M{x}.5 {y}.5h{w}v{h}h-{w}z")?;
            }
            out.push_str("\"/>\n");
            Ok(())
        }
        Shape::Text {
            x,
            y,
            text,
            size,
            colour,
            right,
        } => {
            // A letter of these fonts is 0.6 as wide as it is high.
            let (points, weight) = match size {
                Size::Small => ("11.6", ""),
                Size::Bold => ("11.6", " font-weight=\"bold\""),
                Size::Title => ("15", " font-weight=\"bold\""),
            };
            let anchor = if *right { " text-anchor=\"end\"" } else { "" };
            writeln!(
                out,
                "<text x=\"{x}\" y=\"{y}\" font-size=\"{points}\"{weight}{anchor} fill=\"{}\" xml:space=\"preserve\">{}</text>",
                Css(*colour),
                Escaped(text)
            )
        }
        Shape::Arrow { from, to, colour } => {
            let [a, b] = super::picture::head(*from, *to);
            writeln!(
                out,
                "<path fill=\"none\" stroke=\"{}\" stroke-width=\"1.5\" shape-rendering=\"auto\" d=\"M{} {}L{} {}M{} {}L{} {}L{} {}\"/>",
                Css(*colour),
                from.0,
                from.1,
                to.0,
                to.1,
                a.0,
                a.1,
                to.0,
                to.1,
                b.0,
                b.1
            )
        }
    }
}

/// Lines as thick as the rectangles are high, each where the last one ended: the shortest there is.
fn fill(out: &mut String, colour: Colour, title: &str, places: &[Place]) -> std::fmt::Result {
    let Some(first) = places.first() else {
        return Ok(());
    };
    let half = first.h / 2;
    // A whole number only where the height is even; odd ones are few.
    let odd = if first.h % 2 == 1 { ".5" } else { "" };
    write!(
        out,
        "<path stroke=\"{}\" stroke-width=\"{}\" d=\"",
        Css(colour),
        first.h
    )?;
    let mut at = None;
    for Place { x, y, w, .. } in places {
        let y = y + half;
        match at {
            Some((last_x, last_y)) if odd.is_empty() && last_y == y && *x >= last_x => {
                write!(out, "m{} 0h{w}", x - last_x)?;
            }
            _ => write!(out, "M{x} {y}{odd}h{w}")?,
        }
        at = Some((x + w, y));
    }
    match title {
        "" => out.push_str("\"/>\n"),
        title => writeln!(out, "\"><title>{}</title></path>", Escaped(title))?,
    }
    Ok(())
}

/// A colour as CSS has it.
struct Css(Colour);

impl std::fmt::Display for Css {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Colour(r, g, b) = self.0;
        write!(f, "#{r:02x}{g:02x}{b:02x}")
    }
}

/// Text that XML takes as it is meant; what XML cannot have is shown as `?`.
struct Escaped<'a>(&'a str);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\u{fffe}' | '\u{ffff}' => f.write_char('?')?,
                c if c.is_control() => f.write_char('?')?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_makes_a_document_that_parses() {
        let place = Place {
            x: 1,
            y: 2,
            w: 3,
            h: 4,
        };
        let name = "a<b>&\"'\u{1}\u{1b}[0m]]>\u{ffff}ü";
        let mut picture = Picture {
            width: 10,
            height: 10,
            title: name.to_owned(),
            numbers: "{\"a\":1}".to_owned(),
            shapes: vec![
                Shape::Fill {
                    colour: Colour(1, 2, 3),
                    title: name.to_owned(),
                    places: vec![place, Place { x: 6, ..place }, Place { x: 0, ..place }],
                },
                Shape::Edges {
                    colour: Colour(0, 0, 0),
                    places: vec![place],
                },
                Shape::Arrow {
                    from: (0, 0),
                    to: (9, 9),
                    colour: Colour(0, 0, 0),
                },
            ],
        };
        picture.text(1, 2, Size::Title, name);
        let text = write(&picture);
        let document = roxmltree::Document::parse(&text).unwrap();
        let root = document.root_element();
        let child = |name| root.children().find(|node| node.has_tag_name(name));
        assert_eq!(child("title").unwrap().text(), Some("a<b>&\"'??[0m]]>?ü"));
        assert_eq!(child("metadata").unwrap().text(), Some("{\"a\":1}"));
        assert!(text.contains("d=\"M1 4h3m2 0h3M0 4h3\""), "{text}");
    }
}
