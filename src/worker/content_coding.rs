//! Content codings of request bodies: gzip and deflate (RFC 9110, 8.4.1), decoded piece by piece.
//!
//! A decoder returns pieces of bounded size, so that the caller can check limits before it keeps more. A small body can
//! decode to a thousand times its size.

use std::io::Write;

use flate2::write::MultiGzDecoder;
use flate2::{Decompress, FlushDecompress, Status};
use http::HeaderMap;
use http::header::CONTENT_ENCODING;

/// The size of a decoded piece in bytes.
const PIECE: usize = 32 << 10;
/// The value of `Accept-Encoding` that names the supported codings.
pub const SUPPORTED: &str = "gzip, deflate";

/// The coding of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentCoding {
    Identity,
    Gzip,
    Deflate,
}

/// The body has another coding, or several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnsupportedCoding;

/// The body is not what its coding says, or ends early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CorruptBody;

impl ContentCoding {
    /// Returns the coding that the headers declare.
    pub fn of(headers: &HeaderMap) -> Result<Self, UnsupportedCoding> {
        let mut found = ContentCoding::Identity;
        for value in headers.get_all(CONTENT_ENCODING) {
            let value = value.to_str().map_err(|_| UnsupportedCoding)?;
            for name in value.split(',').map(str::trim) {
                let coding = match name.to_ascii_lowercase().as_str() {
                    "" | "identity" => continue,
                    "gzip" | "x-gzip" => ContentCoding::Gzip,
                    "deflate" => ContentCoding::Deflate,
                    _ => return Err(UnsupportedCoding),
                };
                // Nested codings have no use, and would multiply the work of a small body.
                if found != ContentCoding::Identity {
                    return Err(UnsupportedCoding);
                }
                found = coding;
            }
        }
        Ok(found)
    }

    /// Returns a decoder; `None` for a body without a coding.
    pub fn decoder(self) -> Option<Decoder> {
        match self {
            ContentCoding::Identity => None,
            ContentCoding::Gzip => Some(Decoder::Gzip(Box::new(MultiGzDecoder::new(Vec::new())))),
            ContentCoding::Deflate => Some(Decoder::Deflate(None)),
        }
    }
}

/// Decodes a body.
pub enum Decoder {
    Gzip(Box<MultiGzDecoder<Vec<u8>>>),
    /// `None` before the first byte.
    Deflate(Option<Inflater>),
}

/// The state of a deflated body.
pub struct Inflater {
    decompress: Decompress,
    has_ended: bool,
}

impl Inflater {
    /// `deflate` means the zlib format. Some clients send the data without its header, which cannot be mistaken for it:
    /// there, a first byte like this would be a stored block with padding that no encoder writes.
    fn new(first: u8) -> Self {
        Inflater { decompress: Decompress::new(first & 0x0f == 8), has_ended: false }
    }

    fn inflate(&mut self, input: &mut &[u8], flush: FlushDecompress) -> Result<Vec<u8>, CorruptBody> {
        if self.has_ended {
            return if input.is_empty() { Ok(Vec::new()) } else { Err(CorruptBody) };
        }
        let mut piece = Vec::with_capacity(PIECE);
        let before = self.decompress.total_in();
        let status = self.decompress.decompress_vec(input, &mut piece, flush).map_err(|_| CorruptBody)?;
        let consumed = self.decompress.total_in().saturating_sub(before);
        *input = usize::try_from(consumed).ok().and_then(|n| input.get(n..)).unwrap_or_default();
        self.has_ended = status == Status::StreamEnd;
        Ok(piece)
    }
}

impl Decoder {
    /// Consumes a part of the input and returns decoded bytes, about `PIECE` at most. Call it until the input is empty
    /// and no bytes are returned.
    pub fn decode(&mut self, input: &mut &[u8]) -> Result<Vec<u8>, CorruptBody> {
        match self {
            Decoder::Gzip(_) if input.is_empty() => Ok(Vec::new()),
            Decoder::Gzip(gzip) => {
                let consumed = gzip.write(input).map_err(|_| CorruptBody)?;
                *input = input.get(consumed..).unwrap_or_default();
                Ok(std::mem::take(gzip.get_mut()))
            }
            Decoder::Deflate(inflater) => match (inflater.as_mut(), input.first()) {
                (Some(inflater), _) => inflater.inflate(input, FlushDecompress::None),
                (None, Some(first)) => {
                    inflater.insert(Inflater::new(*first)).inflate(input, FlushDecompress::None)
                }
                (None, None) => Ok(Vec::new()),
            },
        }
    }

    /// Returns the last decoded bytes. Fails if the body is incomplete.
    pub fn finish(&mut self) -> Result<Vec<u8>, CorruptBody> {
        match self {
            Decoder::Gzip(gzip) => {
                gzip.try_finish().map_err(|_| CorruptBody)?;
                Ok(std::mem::take(gzip.get_mut()))
            }
            Decoder::Deflate(Some(inflater)) => {
                let last = inflater.inflate(&mut &[][..], FlushDecompress::Finish)?;
                if inflater.has_ended { Ok(last) } else { Err(CorruptBody) }
            }
            Decoder::Deflate(None) => Err(CorruptBody),
        }
    }
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

    use super::*;

    fn encode(body: &[u8]) -> Vec<(ContentCoding, Vec<u8>)> {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::best());
        let mut raw = DeflateEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(body).unwrap();
        zlib.write_all(body).unwrap();
        raw.write_all(body).unwrap();
        vec![
            (ContentCoding::Gzip, gzip.finish().unwrap()),
            (ContentCoding::Deflate, zlib.finish().unwrap()),
            (ContentCoding::Deflate, raw.finish().unwrap()),
        ]
    }

    /// Decodes a body that arrives in chunks of this many bytes. Also returns the size of the largest piece.
    fn decode(coding: ContentCoding, body: &[u8], chunk: usize) -> Result<(Vec<u8>, usize), CorruptBody> {
        let mut decoder = coding.decoder().unwrap();
        let (mut out, mut largest) = (Vec::new(), 0);
        for mut input in body.chunks(chunk) {
            loop {
                let piece = decoder.decode(&mut input)?;
                largest = largest.max(piece.len());
                out.extend_from_slice(&piece);
                if piece.is_empty() && input.is_empty() {
                    break;
                }
            }
        }
        let last = decoder.finish()?;
        out.extend_from_slice(&last);
        Ok((out, largest.max(last.len())))
    }

    #[test]
    fn decodes_in_pieces_of_bounded_size() {
        let zeros = vec![0; 3 << 20];
        let text: Vec<u8> = (0..200_000_u32).flat_map(|n| n.to_string().into_bytes()).collect();
        for body in [&b""[..], b"x", b"hello hello hello", &zeros, &text] {
            for (coding, encoded) in encode(body) {
                for chunk in [1, 7, 64 << 10].into_iter().filter(|n| *n > 1 || encoded.len() < 9999) {
                    let (decoded, largest) = decode(coding, &encoded, chunk).unwrap();
                    assert!(decoded == body, "{coding:?} {} bytes in chunks of {chunk}", body.len());
                    assert!(largest <= 3 * PIECE, "{coding:?}: a piece of {largest} bytes");
                }
            }
        }
    }

    #[test]
    fn rejects_corrupt_and_incomplete_bodies() {
        for (coding, encoded) in encode(b"hello hello hello") {
            for length in 0..encoded.len() {
                assert_eq!(decode(coding, &encoded[..length], 5), Err(CorruptBody), "{coding:?} {length}");
            }
            let trailing = [&encoded[..], b"trailing"].concat();
            assert_eq!(decode(coding, &trailing, 9999), Err(CorruptBody), "{coding:?}");
        }
        assert_eq!(decode(ContentCoding::Gzip, b"{\"source\":\"s\"}", 99), Err(CorruptBody));
        assert_eq!(decode(ContentCoding::Deflate, b"{\"source\":\"s\"}", 99), Err(CorruptBody));
        // Members of a gzip body follow each other (RFC 1952, 2.2).
        let (_, member) = encode(b"ab").remove(0);
        assert_eq!(decode(ContentCoding::Gzip, &member.repeat(3), 4).unwrap().0, b"ababab");
    }

    #[test]
    fn reads_the_declared_coding() {
        let of = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(CONTENT_ENCODING, value.parse().unwrap());
            }
            ContentCoding::of(&headers)
        };
        for (values, want) in [
            (&[][..], Ok(ContentCoding::Identity)),
            (&["identity"], Ok(ContentCoding::Identity)),
            (&["GZIP"], Ok(ContentCoding::Gzip)),
            (&["x-gzip, identity"], Ok(ContentCoding::Gzip)),
            (&["deflate"], Ok(ContentCoding::Deflate)),
            (&["br"], Err(UnsupportedCoding)),
            (&["gzip, gzip"], Err(UnsupportedCoding)),
            (&["gzip", "deflate"], Err(UnsupportedCoding)),
            (&["\u{e9}"], Err(UnsupportedCoding)),
        ] {
            assert_eq!(of(values), want, "{values:?}");
        }
    }
}
