//! Keys, from the bytes that a terminal sends for them.

use std::io::{ErrorKind, Read};

/// What was pressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Char(char),
    Enter,
    Tab,
    Backspace,
    Delete,
    Left,
    Right,
    Up,
    Down,
    Home,
    End,
    /// Ctrl-K.
    CutToEnd,
    /// Ctrl-U.
    CutToStart,
    /// Ctrl-W.
    CutWord,
    /// Ctrl-L.
    Clear,
    /// Ctrl-C.
    Interrupt,
    /// Ctrl-D.
    Leave,
    /// One that does nothing here.
    Other,
}

/// The next key; none at the end of the input.
///
/// # Errors
/// As reading fails.
pub fn next(input: &mut impl Read) -> std::io::Result<Option<Key>> {
    let Some(byte) = byte(input)? else { return Ok(None) };
    Ok(Some(match byte {
        b'\r' | b'\n' => Key::Enter,
        b'\t' => Key::Tab,
        0x7f | 0x08 => Key::Backspace,
        0x01 => Key::Home,
        0x02 => Key::Left,
        0x03 => Key::Interrupt,
        0x04 => Key::Leave,
        0x05 => Key::End,
        0x06 => Key::Right,
        0x0b => Key::CutToEnd,
        0x0c => Key::Clear,
        0x0e => Key::Down,
        0x10 => Key::Up,
        0x15 => Key::CutToStart,
        0x17 => Key::CutWord,
        0x1b => return escaped(input),
        0..0x20 => Key::Other,
        _ => return character(byte, input),
    }))
}

fn byte(input: &mut impl Read) -> std::io::Result<Option<u8>> {
    let mut byte = [0];
    loop {
        match input.read(&mut byte) {
            Ok(0) => return Ok(None),
            Ok(_) => return Ok(Some(byte[0])),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// `ESC [ ... letter` or `ESC O letter`, as xterm and its like send them.
fn escaped(input: &mut impl Read) -> std::io::Result<Option<Key>> {
    let Some(b'[' | b'O') = byte(input)? else { return Ok(Some(Key::Other)) };
    let mut number = 0u32;
    loop {
        let Some(next) = byte(input)? else { return Ok(None) };
        return Ok(Some(match next {
            b'0'..=b'9' => {
                number = number.saturating_mul(10).saturating_add(u32::from(next - b'0'));
                continue;
            }
            b';' => continue,
            b'A' => Key::Up,
            b'B' => Key::Down,
            b'C' => Key::Right,
            b'D' => Key::Left,
            b'H' => Key::Home,
            b'F' => Key::End,
            b'~' if matches!(number, 1 | 7) => Key::Home,
            b'~' if matches!(number, 4 | 8) => Key::End,
            b'~' if number == 3 => Key::Delete,
            _ => Key::Other,
        }));
    }
}

/// A character of UTF-8 that begins with `first`.
fn character(first: u8, input: &mut impl Read) -> std::io::Result<Option<Key>> {
    let length = match first {
        0xc0..0xe0 => 2,
        0xe0..0xf0 => 3,
        0xf0.. => 4,
        _ => 1,
    };
    let mut bytes = vec![first];
    while bytes.len() < length {
        let Some(next) = byte(input)? else { return Ok(None) };
        bytes.push(next);
    }
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.chars().next().map(Key::Char))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_keys() {
        let mut input =
            "aé字\r\t\x7f\x03\x1b[A\x1b[B\x1bOC\x1b[1;5D\x1b[3~\x1b[1~\x1b[4~\x1b[15~\x1bx\x00\x04".as_bytes();
        let keys: Vec<Key> = std::iter::from_fn(|| next(&mut input).unwrap()).collect();
        use Key::*;
        assert_eq!(
            keys,
            [
                Char('a'),
                Char('é'),
                Char('字'),
                Enter,
                Tab,
                Backspace,
                Interrupt,
                Up,
                Down,
                Right,
                Left,
                Delete,
                Home,
                End,
                Other,
                Other,
                Other,
                Leave
            ]
        );
        assert_eq!(next(&mut "\x1b[".as_bytes()).unwrap(), None, "the input ends amid a key");
    }
}
