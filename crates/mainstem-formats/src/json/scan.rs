//! One pass over JSON text (RFC 8259): checks it, and reports members and elements as spans.
//!
//! The text is known to be UTF-8. A span starts and ends beside ASCII bytes, so it can always be sliced. Nothing is
//! converted here.

/// Objects and arrays inside one another, the record's own object included.
pub(crate) const DEPTH_MAX: usize = 128;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenKind {
    /// No member of that name.
    Missing,
    Null,
    True,
    False,
    Number,
    /// The span is what stands between the quotes; there is no escape in it.
    PlainString,
    /// As `PlainString`, with escapes.
    EscapedString,
    Array,
    Object,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Token {
    pub(crate) kind: TokenKind,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl Token {
    pub(crate) const MISSING: Self = Self { kind: TokenKind::Missing, start: 0, end: 0 };

    pub(crate) fn of<'t>(&self, text: &'t str) -> &'t str {
        &text[self.start..self.end]
    }

    pub(crate) fn is_missing(&self) -> bool {
        self.kind == TokenKind::Missing
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(self.kind, TokenKind::Missing | TokenKind::Null)
    }
}

/// The text is no JSON: at byte `at`, `what` was wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Malformed {
    pub(crate) at: usize,
    pub(crate) what: &'static str,
}

pub(crate) struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self::starting_at(text, 0)
    }

    /// To look again into a span that was reported before; positions stay those of `text`.
    pub(crate) fn starting_at(text: &'a str, at: usize) -> Self {
        Self { bytes: text.as_bytes(), at }
    }

    pub(crate) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    pub(crate) fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\t' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    pub(crate) fn expect_end(&mut self) -> Result<(), Malformed> {
        self.skip_space();
        if self.at < self.bytes.len() { self.fail("the end of the record") } else { Ok(()) }
    }

    fn fail<T>(&self, what: &'static str) -> Result<T, Malformed> {
        Err(Malformed { at: self.at, what })
    }

    /// Any value. `depth` objects and arrays are open around it.
    pub(crate) fn value(&mut self, depth: usize) -> Result<Token, Malformed> {
        let start = self.at;
        let kind = match self.peek() {
            Some(b'"') => return self.string(),
            Some(b'-' | b'0'..=b'9') => {
                self.number()?;
                TokenKind::Number
            }
            Some(b'{') => {
                self.object(depth + 1, |_, _| {})?;
                TokenKind::Object
            }
            Some(b'[') => {
                self.array(depth + 1, |_| {})?;
                TokenKind::Array
            }
            Some(b't') => self.word(b"true", TokenKind::True)?,
            Some(b'f') => self.word(b"false", TokenKind::False)?,
            Some(b'n') => self.word(b"null", TokenKind::Null)?,
            _ => return self.fail("a value"),
        };
        Ok(Token { kind, start, end: self.at })
    }

    /// The object that starts here; `each` takes the tokens of name and value.
    pub(crate) fn object(&mut self, depth: usize, mut each: impl FnMut(Token, Token)) -> Result<(), Malformed> {
        if self.open(depth, b'}')? {
            return Ok(());
        }
        loop {
            if self.peek() != Some(b'"') {
                return self.fail("a member name");
            }
            let name = self.string()?;
            self.skip_space();
            if self.peek() != Some(b':') {
                return self.fail("a colon");
            }
            self.at += 1;
            self.skip_space();
            let value = self.value(depth)?;
            each(name, value);
            if self.close(b'}', "a comma or }")? {
                return Ok(());
            }
        }
    }

    /// The array that starts here.
    pub(crate) fn array(&mut self, depth: usize, mut each: impl FnMut(Token)) -> Result<(), Malformed> {
        if self.open(depth, b']')? {
            return Ok(());
        }
        loop {
            let value = self.value(depth)?;
            each(value);
            if self.close(b']', "a comma or ]")? {
                return Ok(());
            }
        }
    }

    /// Steps over the opening bracket; true if the closing one follows.
    fn open(&mut self, depth: usize, closing: u8) -> Result<bool, Malformed> {
        if depth > DEPTH_MAX {
            return self.fail("no more than 128 levels of nesting");
        }
        self.at += 1;
        self.skip_space();
        let is_empty = self.peek() == Some(closing);
        self.at += usize::from(is_empty);
        Ok(is_empty)
    }

    /// Steps over what follows a member or an element; true if that closes the object or array.
    fn close(&mut self, closing: u8, what: &'static str) -> Result<bool, Malformed> {
        self.skip_space();
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                self.skip_space();
                Ok(false)
            }
            Some(found) if found == closing => {
                self.at += 1;
                Ok(true)
            }
            _ => self.fail(what),
        }
    }

    fn word(&mut self, word: &'static [u8], kind: TokenKind) -> Result<TokenKind, Malformed> {
        if !self.bytes[self.at..].starts_with(word) {
            return self.fail("true, false or null");
        }
        self.at += word.len();
        Ok(kind)
    }

    fn number(&mut self) -> Result<(), Malformed> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Malformed> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at == start { self.fail("a digit") } else { Ok(()) }
    }

    fn string(&mut self) -> Result<Token, Malformed> {
        self.at += 1;
        let start = self.at;
        let mut kind = TokenKind::PlainString;
        loop {
            self.at += plain_length(&self.bytes[self.at..]);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Token { kind, start, end: self.at - 1 });
                }
                Some(b'\\') => {
                    kind = TokenKind::EscapedString;
                    self.escape()?;
                }
                Some(_) => return self.fail("an escape instead of a control character"),
                None => return self.fail("the end of a string"),
            }
        }
    }

    fn escape(&mut self) -> Result<(), Malformed> {
        self.at += 1;
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
            Some(b'u') => match self.code_unit()? {
                0xDC00..=0xDFFF => return self.fail("no lone surrogate"),
                0xD800..=0xDBFF => {
                    if !self.bytes[self.at..].starts_with(b"\\u") {
                        return self.fail("the second half of a surrogate pair");
                    }
                    self.at += 1;
                    if !(0xDC00..=0xDFFF).contains(&self.code_unit()?) {
                        return self.fail("the second half of a surrogate pair");
                    }
                }
                _ => {}
            },
            _ => return self.fail("an escape that JSON has"),
        }
        Ok(())
    }

    /// Steps over `uXXXX`.
    fn code_unit(&mut self) -> Result<u32, Malformed> {
        self.at += 1;
        match self.bytes.get(self.at..self.at + 4).and_then(hex4) {
            Some(unit) => {
                self.at += 4;
                Ok(unit)
            }
            None => self.fail("four hexadecimal digits"),
        }
    }
}

fn hex4(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |sum, digit| Some(sum * 16 + char::from(*digit).to_digit(16)?))
}

/// How many bytes at the start are ordinary characters of a string; eight at a time.
fn plain_length(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([0x01; 8]);
    const HIGHS: u64 = u64::from_ne_bytes([0x80; 8]);
    let (chunks, tail) = bytes.as_chunks::<8>();
    for (index, chunk) in chunks.iter().enumerate() {
        let word = u64::from_le_bytes(*chunk);
        let quote = word ^ (ONES * u64::from(b'"'));
        let backslash = word ^ (ONES * u64::from(b'\\'));
        // A borrow can mark bytes above the first real hit only, so the lowest mark is right.
        let hits = (quote.wrapping_sub(ONES) & !quote)
            | (backslash.wrapping_sub(ONES) & !backslash)
            | (word.wrapping_sub(ONES * 0x20) & !word);
        if hits & HIGHS != 0 {
            return index * 8 + (hits & HIGHS).trailing_zeros() as usize / 8;
        }
    }
    let of_tail = tail.iter().take_while(|byte| !matches!(byte, b'"' | b'\\' | 0..0x20)).count();
    chunks.len() * 8 + of_tail
}

/// The characters that the inside of a scanned string stands for.
pub(crate) fn unescape(inside: &str) -> String {
    let mut out = String::with_capacity(inside.len());
    let mut rest = inside;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let code = rest.as_bytes().get(at + 1).copied().unwrap_or_default();
        rest = rest.get(at + 2..).unwrap_or_default();
        match code {
            b'b' => out.push('\u{8}'),
            b'f' => out.push('\u{c}'),
            b'n' => out.push('\n'),
            b'r' => out.push('\r'),
            b't' => out.push('\t'),
            b'u' => {
                let (character, length) = code_point(rest.as_bytes());
                out.push(character);
                rest = rest.get(length..).unwrap_or_default();
            }
            other => out.push(char::from(other)),
        }
    }
    out.push_str(rest);
    out
}

/// The character whose `XXXX` or `XXXX\uXXXX` starts here, and the length of that.
fn code_point(digits: &[u8]) -> (char, usize) {
    let unit = |range| digits.get(range).and_then(hex4).unwrap_or_default();
    let first = unit(0..4);
    if !(0xD800..0xDC00).contains(&first) {
        return (char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER), 4);
    }
    let pair = 0x1_0000 + ((first - 0xD800) << 10) + unit(6..10).saturating_sub(0xDC00);
    (char::from_u32(pair).unwrap_or(char::REPLACEMENT_CHARACTER), 10)
}

/// Appends `text`, a JSON value, without the space between its tokens. False if it is no JSON, or has `\u0000` in it, which
/// PostgreSQL's jsonb cannot hold either; `out` is then as it was.
pub(crate) fn compact(text: &str, depth: usize, out: &mut String) -> bool {
    let mut scanner = Scanner::new(text);
    scanner.skip_space();
    if scanner.value(depth).is_err() || scanner.expect_end().is_err() {
        return false;
    }
    let mark = out.len();
    let mut rest = text;
    // Outside of strings until a quote, inside until the quote that is not escaped.
    while let Some(quote) = rest.find('"') {
        out.extend(rest[..quote].split_ascii_whitespace());
        let inside = &rest[quote + 1..];
        let length = string_length(inside);
        if has_nul(&inside[..length]) {
            out.truncate(mark);
            return false;
        }
        out.push_str(&rest[quote..quote + length + 2]);
        rest = &inside[length + 1..];
    }
    out.extend(rest.split_ascii_whitespace());
    true
}

/// Bytes up to the closing quote of a valid string.
fn string_length(inside: &str) -> usize {
    let mut is_escaped = false;
    inside
        .bytes()
        .position(|byte| {
            let closes = byte == b'"' && !is_escaped;
            is_escaped = byte == b'\\' && !is_escaped;
            closes
        })
        .unwrap_or(inside.len())
}

fn has_nul(inside: &str) -> bool {
    inside.contains("\\u0000") && unescape(inside).contains('\0')
}
