//! Rows for people, in columns, and for programs, separated by commas.

/// Columns side by side: numbers to the right, words to the left.
pub(super) fn table<const N: usize>(names: [&str; N], numbers: [bool; N], rows: &[[String; N]]) -> String {
    let width = |i: usize| rows.iter().map(|row| row[i].chars().count()).fold(names[i].len(), usize::max);
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |cells: [&str; N]| {
        let mut line = String::new();
        for (i, cell) in cells.iter().enumerate() {
            let (gap, width) = (if i == 0 { "" } else { "  " }, widths[i]);
            line += &if numbers[i] { format!("{gap}{cell:>width$}") } else { format!("{gap}{cell:<width$}") };
        }
        line.truncate(line.trim_end().len());
        line + "\n"
    };
    let each = rows.iter().map(|row| line(std::array::from_fn(|i| row[i].as_str())));
    std::iter::once(line(names)).chain(each).collect()
}

/// A header and a line a row. A cell with a comma, a quote or a line's end is quoted.
pub(super) fn csv<const N: usize>(names: [&str; N], rows: &[[String; N]]) -> String {
    let quoted = |cell: &String| match cell.contains([',', '"', '\n']) {
        true => format!("\"{}\"", cell.replace('"', "\"\"")),
        false => cell.clone(),
    };
    let each = rows.iter().map(|row| row.each_ref().map(quoted).join(",") + "\n");
    std::iter::once(names.join(",") + "\n").chain(each).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_cells_are_quoted() {
        let rows = [["a".to_string(), "1000".to_string()], ["b, \"c\"".to_string(), "7".to_string()]];
        assert_eq!(table(["name", "n"], [false, true], &rows), "name       n\na       1000\nb, \"c\"     7\n");
        assert_eq!(csv(["name", "n"], &rows), "name,n\na,1000\n\"b, \"\"c\"\"\",7\n");
    }
}
