//! A bounded reading of the first YAML document of a text.
//!
//! The scanner is `saphyr-parser` (pure Rust, safe, two small dependencies, runs the YAML test suite): its *events* are turned into a
//! tree here, without recursion. `serde` based readers were rejected: they resolve scalars to numbers and booleans, which loses the
//! spelling of a command, and expand aliases.

use saphyr_parser::{Event, Parser, ScalarStyle, Tag};
use thiserror::Error;

/// A Procfile has depth 2, `.release` 3; `addons` of old buildpacks 4.
const DEPTH_MAX: usize = 16;

/// Far above what a slug needs; keeps the tree small beside its text.
const NODES_MAX: usize = 8192;

/// A value.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Node {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A scalar with its spelling.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Scalar {
    pub(super) text: Box<str>,
    /// Without quotes and not a block: what a YAML reader may take for a boolean or nothing.
    pub(super) plain: bool,
}

/// A key with its value.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: Node,
    pub(super) value: Node,
    pub(super) line: usize,
}

impl Scalar {
    /// Whether a YAML reader takes it for nothing.
    pub(super) fn is_null(&self) -> bool {
        self.plain && matches!(&*self.text, "" | "~" | "null" | "Null" | "NULL")
    }

    /// Whether a reader of YAML 1.1 takes it for true or false.
    pub(super) fn is_boolean(&self) -> bool {
        const WORDS: [&str; 6] = ["yes", "no", "on", "off", "true", "false"];
        self.plain && WORDS.iter().any(|word| word.eq_ignore_ascii_case(&self.text))
    }
}

impl Node {
    /// The text of a scalar.
    pub(super) fn into_text(self) -> Option<Box<str>> {
        match self {
            Self::Scalar(scalar) => Some(scalar.text),
            Self::List(_) | Self::Map(_) => None,
        }
    }
}

/// Why a text is not YAML that we read.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum YamlError {
    /// Not YAML.
    #[error("line {line}: not YAML ({reason})")]
    Syntax {
        /// Where.
        line: usize,
        /// What the scanner said.
        reason: Box<str>,
    },
    /// `*name`: what it stands for may be of any size.
    #[error("line {line}: YAML aliases are not accepted")]
    Alias {
        /// Where.
        line: usize,
    },
    /// `!name`: asks the reader to construct something.
    #[error("line {line}: YAML tags other than !!str are not accepted")]
    Tag {
        /// Where.
        line: usize,
    },
    /// Nested too deep.
    #[error("line {line}: nested deeper than {DEPTH_MAX} levels")]
    TooDeep {
        /// Where.
        line: usize,
    },
    /// Too many values.
    #[error("line {line}: more than {NODES_MAX} values")]
    TooMany {
        /// Where.
        line: usize,
    },
}

/// Reads the first document. An empty text is the empty scalar.
pub(super) fn read(text: &str) -> Result<Node, YamlError> {
    let mut tree = Tree::default();
    for event in Events(Some(Parser::new_from_str(text))) {
        let (event, line) = event?;
        match event {
            Event::Alias(_) => return Err(YamlError::Alias { line }),
            Event::Scalar(text, style, _, tag) => {
                accept_tag(tag.as_deref(), line)?;
                // A tag says "this is text", so it is as good as quotes.
                let plain = style == ScalarStyle::Plain && tag.is_none();
                tree.put(Node::Scalar(Scalar { text: text.into(), plain }), line)?;
            }
            Event::SequenceStart(_, tag) => {
                refuse_tag(tag.as_deref(), line)?;
                tree.open(Open::List(Vec::new()), line)?;
            }
            Event::MappingStart(_, tag) => {
                refuse_tag(tag.as_deref(), line)?;
                tree.open(Open::Map { entries: Vec::new(), key: None }, line)?;
            }
            Event::SequenceEnd | Event::MappingEnd => tree.close(line)?,
            Event::DocumentEnd | Event::StreamEnd => break,
            Event::Nothing | Event::StreamStart | Event::DocumentStart(_) => {}
        }
    }
    Ok(tree.root.unwrap_or(Node::Scalar(Scalar { text: "".into(), plain: true })))
}

fn accept_tag(tag: Option<&Tag>, line: usize) -> Result<(), YamlError> {
    match tag {
        Some(tag) if !(tag.is_yaml_core_schema() && tag.suffix == "str") => Err(YamlError::Tag { line }),
        _ => Ok(()),
    }
}

const fn refuse_tag(tag: Option<&Tag>, line: usize) -> Result<(), YamlError> {
    if tag.is_some() { Err(YamlError::Tag { line }) } else { Ok(()) }
}

/// Events with their lines; ends at the first error, after which the scanner's state means nothing.
struct Events<'a>(Option<Parser<'a, saphyr_parser::StrInput<'a>>>);

impl<'a> Iterator for Events<'a> {
    type Item = Result<(Event<'a>, usize), YamlError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.0.as_mut()?.next_event()? {
            Ok((event, span)) => Some(Ok((event, span.start.line()))),
            Err(error) => {
                self.0 = None;
                Some(Err(YamlError::Syntax { line: error.marker().line(), reason: error.info().into() }))
            }
        }
    }
}

enum Open {
    List(Vec<Node>),
    Map { entries: Vec<Entry>, key: Option<(Node, usize)> },
}

#[derive(Default)]
struct Tree {
    open: Vec<Open>,
    root: Option<Node>,
    nodes: usize,
}

impl Tree {
    fn open(&mut self, open: Open, line: usize) -> Result<(), YamlError> {
        if self.open.len() == DEPTH_MAX {
            return Err(YamlError::TooDeep { line });
        }
        self.open.push(open);
        Ok(())
    }

    fn close(&mut self, line: usize) -> Result<(), YamlError> {
        match self.open.pop() {
            Some(Open::List(items)) => self.put(Node::List(items), line),
            Some(Open::Map { entries, .. }) => self.put(Node::Map(entries), line),
            None => Ok(()),
        }
    }

    fn put(&mut self, node: Node, line: usize) -> Result<(), YamlError> {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err(YamlError::TooMany { line });
        }
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open::List(items)) => items.push(node),
            Some(Open::Map { entries, key }) => match key.take() {
                None => *key = Some((node, line)),
                Some((key, line)) => entries.push(Entry { key, value: node, line }),
            },
        }
        Ok(())
    }
}
