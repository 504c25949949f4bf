//! Keeping secrets out of sight: masked in what a server repeats, and replaced by stand-ins in what other crates log.

use std::borrow::Cow;
use std::fmt;

/// The values of headers that nobody else may see.
#[derive(Clone, Default)]
pub(crate) struct Secrets {
    known: Vec<Secret>,
}

#[derive(Clone)]
struct Secret {
    /// What goes over the wire.
    value: String,
    /// What stands for it until then: as long, and like nothing else.
    stand_in: String,
    /// The part that is secret in itself: the key without `Bearer`.
    bare: String,
}

/// Shorter values are no secrets: masking `no` would garble every text.
const SHORTEST: usize = 8;

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} secrets", self.known.len())
    }
}

impl Secrets {
    /// Keeps a value secret; gives what to write in its place. `letter` draws letters at random.
    pub(crate) fn keep(&mut self, value: &str, mut letter: impl FnMut() -> char) -> String {
        if value.len() < SHORTEST || !value.is_ascii() {
            return value.to_owned();
        }
        let stand_in: String = value.bytes().map(|_| letter()).collect();
        let bare = value.rsplit(' ').next().filter(|bare| bare.len() >= SHORTEST).unwrap_or(value);
        self.known.push(Secret {
            value: value.to_owned(),
            stand_in: stand_in.clone(),
            bare: bare.to_owned(),
        });
        stand_in
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    /// Puts the values into the head of a request where their stand-ins are; says how many it found. `places` remembers
    /// where they were, because heads are much alike.
    pub(crate) fn substitute(&self, head: &mut [u8], places: &mut Vec<usize>) -> usize {
        places.resize(self.known.len(), 0);
        let mut found = 0;
        for (secret, place) in self.known.iter().zip(places) {
            let (stand_in, length) = (secret.stand_in.as_bytes(), secret.value.len());
            let mut here = head.get(*place..).is_some_and(|rest| rest.starts_with(stand_in));
            if !here {
                let at = head.windows(length).position(|window| window == stand_in);
                here = at.is_some();
                *place = at.unwrap_or(*place);
            }
            if here {
                head[*place..*place + length].copy_from_slice(secret.value.as_bytes());
                found += 1;
            }
        }
        found
    }

    /// A text from outside, without the secrets that it repeats.
    pub(crate) fn mask<'a>(&self, text: &'a [u8]) -> Cow<'a, [u8]> {
        let mut masked = Cow::Borrowed(text);
        for secret in &self.known {
            for word in [&secret.value, &secret.bare] {
                if masked.windows(word.len()).any(|window| window == word.as_bytes()) {
                    // A secret is ASCII, so that replacing it in lossy text leaves no trace of it.
                    let clean = String::from_utf8_lossy(&masked).replace(word.as_str(), "…");
                    masked = Cow::Owned(clean.into_bytes());
                }
            }
        }
        masked
    }

    /// A word from outside, without the secrets that it repeats.
    pub(crate) fn mask_word(&self, word: String) -> String {
        match self.mask(word.as_bytes()) {
            Cow::Borrowed(_) => word,
            Cow::Owned(clean) => String::from_utf8_lossy(&clean).into_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(value: &str) -> (Secrets, String) {
        let mut secrets = Secrets::default();
        let mut letters = ('a'..='z').cycle();
        let stand_in = secrets.keep(value, || letters.next().unwrap());
        (secrets, stand_in)
    }

    #[test]
    fn a_stand_in_is_as_long_and_gives_way_to_the_value() {
        let (secrets, stand_in) = kept("Bearer sk-0123456789");
        assert_eq!(stand_in, "abcdefghijklmnopqrst");
        let mut head = format!("POST / HTTP/1.1\r\nauthorization: {stand_in}\r\n\r\n").into_bytes();
        let again = head.clone();
        let mut places = Vec::new();
        assert_eq!(secrets.substitute(&mut head, &mut places), 1);
        assert_eq!(head, b"POST / HTTP/1.1\r\nauthorization: Bearer sk-0123456789\r\n\r\n");
        assert_eq!(secrets.substitute(&mut head, &mut places), 0);
        let mut longer = [b"xx", again.as_slice()].concat();
        assert_eq!(secrets.substitute(&mut longer, &mut places), 1, "elsewhere too");
        assert_eq!(secrets.substitute(&mut Vec::new(), &mut places), 0);
    }

    #[test]
    fn what_a_server_repeats_is_masked() {
        let (secrets, _) = kept("Bearer sk-0123456789");
        assert_eq!(secrets.mask(b"wrong key: sk-0123456789!").as_ref(), "wrong key: …!".as_bytes());
        assert_eq!(secrets.mask(b"\xffBearer sk-0123456789").as_ref(), "\u{fffd}…".as_bytes());
        assert!(matches!(secrets.mask(b"nothing here"), Cow::Borrowed(_)));
        assert_eq!(secrets.mask_word("sk-0123456789".to_owned()), "…");
    }

    #[test]
    fn short_values_are_no_secrets() {
        assert_eq!(kept("no").1, "no");
        assert_eq!(kept("no").0.len(), 0);
    }
}
