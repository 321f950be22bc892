//! The width of Markdown: prose is limited like code, and a table that needs more should be a list.

/// Characters of one line of prose, where a space allows to break it.
pub(crate) const PROSE_CHARS_MAX: usize = 100;
/// Characters of one row of a table.
pub(crate) const ROW_CHARS_MAX: usize = 300;

/// Lines of prose that are too long; rows of tables and code are as long as they must be.
pub(crate) fn long_prose(text: &str) -> Vec<usize> {
    let long = lines_outside_code(text).filter(|(_, l)| !is_row(l) && l.chars().count() > PROSE_CHARS_MAX);
    long.filter(|(_, l)| can_break(l.trim_start())).map(|(at, _)| at).collect()
}

/// Rows of tables that are too long.
pub(crate) fn long_rows(text: &str) -> Vec<usize> {
    let long = lines_outside_code(text).filter(|(_, l)| is_row(l) && l.chars().count() > ROW_CHARS_MAX);
    long.map(|(at, _)| at).collect()
}

/// (line from 1, text) of what is in no code block.
fn lines_outside_code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(i, line)| {
        fenced ^= line.trim_start().starts_with("```");
        (!fenced && !line.starts_with("    ")).then_some((i + 1, line))
    })
}

fn is_row(line: &str) -> bool {
    line.trim_start().starts_with('|')
}

/// Whether a space stands outside of code.
fn can_break(text: &str) -> bool {
    text.match_indices(' ').any(|(at, _)| text[..at].matches('`').count().is_multiple_of(2))
}
