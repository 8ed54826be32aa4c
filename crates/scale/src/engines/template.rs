//! Documents with holes: written as JSON once, cut at its holes, and from then on only copied together.

use serde_json::Value;

/// Around the name of a hole in a string. `"⟦#name⟧"`, quotes and all, is a hole for JSON that is no string.
const OPEN: char = '⟦';
const CLOSE: char = '⟧';

/// A document with holes of kind `F`.
#[derive(Debug)]
pub(super) struct Template<F> {
    pieces: Vec<(Box<[u8]>, Option<F>)>,
    length: usize,
}

impl<F: Copy> Template<F> {
    /// Cuts a document. `hole` knows the holes by their names.
    pub(super) fn cut(document: &Value, hole: impl Fn(&str) -> F) -> Self {
        Self::cut_text(&document.to_string(), hole)
    }

    /// Cuts an object whose fields keep their order.
    pub(super) fn cut_in_order(fields: &[(&str, Value)], hole: impl Fn(&str) -> F) -> Self {
        let fields: Vec<String> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        Self::cut_text(&format!("{{{}}}", fields.join(",")), hole)
    }

    fn cut_text(text: &str, hole: impl Fn(&str) -> F) -> Self {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once(OPEN) {
            let (name, behind) = behind.split_once(CLOSE).unwrap_or_else(|| panic!("a hole without an end: {behind}"));
            let (before, name, behind) = match name.strip_prefix('#') {
                Some(name) => (before.strip_suffix('"').unwrap(), name, behind.strip_prefix('"').unwrap()),
                None => (before, name, behind),
            };
            pieces.push((before.as_bytes().into(), Some(hole(name))));
            rest = behind;
        }
        pieces.push((rest.as_bytes().into(), None));
        Self { pieces, length: text.len() }
    }

    /// About how long a filled document is.
    pub(super) fn length(&self) -> usize {
        self.length + self.length / 4
    }

    /// Appends the document, its holes filled by `fill`.
    pub(super) fn write(&self, out: &mut Vec<u8>, mut fill: impl FnMut(F, &mut Vec<u8>)) {
        for (text, hole) in &self.pieces {
            out.extend_from_slice(text);
            if let Some(hole) = hole {
                fill(*hole, out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn holes_are_filled() {
        let document = json!({"a": "x⟦one⟧y", "b": "⟦#two⟧", "c": [1, "⟦one⟧"]});
        let template = Template::cut(&document, |name| name == "one");
        let mut out = Vec::new();
        template.write(&mut out, |one, out| out.extend_from_slice(if one { b"1" } else { b"[2]" }));
        let filled: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(filled, json!({"a": "x1y", "b": [2], "c": [1, "1"]}));
    }
}
