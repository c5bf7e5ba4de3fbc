//! Lines out of a pipe, none of them longer than a bound. Knows nothing of what they say.

use std::io;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Reads lines. Waiting for one can be given up at any time without losing anything.
#[derive(Debug)]
pub(super) struct Lines<R> {
    reader: R,
    buffer: Vec<u8>,
    bytes_max: usize,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(super) fn new(reader: R, bytes_max: usize) -> Self {
        Self { reader, buffer: Vec::new(), bytes_max }
    }

    /// The next line without its end; nothing at the end of the pipe. What comes after the last end of a line is no line.
    pub(super) async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
                let rest = self.buffer.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                line.truncate(end);
                return Ok(Some(line));
            }
            if self.buffer.len() > self.bytes_max {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a line without an end"));
            }
            if self.reader.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(text: &[u8]) -> Vec<Result<Vec<u8>, io::ErrorKind>> {
        let mut lines = Lines::new(text, 8);
        let mut read = Vec::new();
        loop {
            match lines.next().await {
                Ok(Some(line)) => read.push(Ok(line)),
                Ok(None) => return read,
                Err(error) => {
                    read.push(Err(error.kind()));
                    return read;
                }
            }
        }
    }

    #[tokio::test]
    async fn lines_are_bounded_and_half_a_line_is_none() {
        assert_eq!(all(b"one\n\ntwo\nhal").await, [Ok(b"one".into()), Ok(b"".into()), Ok(b"two".into())]);
        assert_eq!(all(b"without an end").await, [Err(io::ErrorKind::InvalidData)]);
        assert_eq!(all(b"").await, []);
    }
}
