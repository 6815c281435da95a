//! Whether what a request shows is what is asked for.

use std::sync::Arc;

use super::cache::Checks;
use super::place::{self, At, JwtPlace};
use super::token::Token;
use super::{JwtClaims, JwtRefusal, Shown};
use crate::config::{JwtPlaces, JwtRequirement, JwtRules};
use crate::route::RequestHead;

/// What a request shows to one requirement.
pub(super) struct Found<'r> {
    /// Each provider with the audiences that it is asked with, and what came of it.
    judged: Vec<Judged<'r>>,
    place: Option<JwtPlace>,
}

struct Judged<'r> {
    provider: usize,
    audiences: &'r [Box<str>],
    outcome: Result<Arc<JwtClaims>, JwtRefusal>,
}

impl<'r> Found<'r> {
    /// Looks for the one token, and asks each provider that the requirement may turn on. One that only the words "a good one or none" stand
    /// for turns on all.
    pub(super) fn of(
        rules: &'r JwtRules,
        requirement: &'r JwtRequirement,
        head: &RequestHead<'_>,
        now: u64,
        checks: &mut Checks<'_>,
    ) -> Result<Self, JwtRefusal> {
        let mut asked: Vec<(usize, &[Box<str>])> = Vec::new();
        collect(requirement, &mut asked);
        if asked.is_empty() {
            asked.extend((0..rules.providers.len()).map(|index| (index, &[][..])));
        }
        let mut tokens: Vec<At<'_>> = Vec::new();
        let mut seen: Vec<&JwtPlaces> = Vec::new();
        for (index, _) in &asked {
            let Some(provider) = rules.providers.get(*index) else {
                continue;
            };
            if seen.contains(&&provider.places) {
                continue;
            }
            seen.push(&provider.places);
            let mut of_provider = Vec::new();
            place::tokens(&provider.places, head, &mut |at| of_provider.push(at));
            // Another provider may look at the same place; within one, the same place twice is two tokens.
            let known = tokens.len();
            let new = of_provider
                .into_iter()
                .filter(|(place, _)| !tokens[..known].iter().any(|(one, _)| one == place));
            let new: Vec<_> = new.collect();
            tokens.extend(new);
        }
        let mut tokens = tokens.into_iter();
        let (place, text) = match (tokens.next(), tokens.next()) {
            (None, _) => return Ok(Self::none(asked)),
            (Some(_), Some(_)) => return Err(JwtRefusal::Several),
            (Some(one), None) => one,
        };
        let token = Token::parse(&text);
        let mut judge = |(index, audiences): (usize, &'r [Box<str>])| {
            let outcome = match (rules.providers.get(index), &token) {
                (None, _) => Err(JwtRefusal::Issuer),
                (Some(provider), _) if !place::looks_at(&provider.places, &place) => Err(JwtRefusal::Missing),
                (_, Err(why)) => Err(*why),
                (Some(provider), Ok(token)) if *provider.issuer != *token.issuer() => Err(JwtRefusal::Issuer),
                (Some(provider), Ok(token)) => {
                    let audiences = if audiences.is_empty() {
                        &provider.audiences
                    } else {
                        audiences
                    };
                    token.verify(provider, audiences, now, checks).map(Arc::new)
                }
            };
            Judged {
                provider: index,
                audiences,
                outcome,
            }
        };
        Ok(Self {
            judged: asked.into_iter().map(&mut judge).collect(),
            place: Some(place),
        })
    }

    fn none(asked: Vec<(usize, &'r [Box<str>])>) -> Self {
        let missing = |(provider, audiences)| Judged {
            provider,
            audiences,
            outcome: Err(JwtRefusal::Missing),
        };
        Self {
            judged: asked.into_iter().map(missing).collect(),
            place: None,
        }
    }

    pub(super) fn satisfies(&self, requirement: &JwtRequirement) -> Result<(), JwtRefusal> {
        match requirement {
            JwtRequirement::Provider(index, audiences) => {
                let mut judged = self.judged.iter();
                let own = judged.find(|one| one.provider == *index && one.audiences == &**audiences);
                match own.map(|own| &own.outcome) {
                    Some(Ok(_)) => Ok(()),
                    Some(Err(why)) => Err(*why),
                    None => Err(JwtRefusal::Missing),
                }
            }
            JwtRequirement::Any(all) => {
                let mut why = JwtRefusal::Missing;
                for one in all {
                    match self.satisfies(one) {
                        Ok(()) => return Ok(()),
                        Err(other) => why = telling(why, other),
                    }
                }
                Err(why)
            }
            JwtRequirement::All(all) => all.iter().try_for_each(|one| self.satisfies(one)),
            JwtRequirement::AllowMissing => match self.place {
                None => Ok(()),
                Some(_) => self.any_good(),
            },
            JwtRequirement::AllowMissingOrFailed => Ok(()),
        }
    }

    fn any_good(&self) -> Result<(), JwtRefusal> {
        let mut why = JwtRefusal::Missing;
        for judged in &self.judged {
            match &judged.outcome {
                Ok(_) => return Ok(()),
                Err(other) => why = telling(why, *other),
            }
        }
        Err(why)
    }

    pub(super) fn shown(self) -> Shown {
        let mut judged = self.judged.into_iter();
        let good = judged.find_map(|one| Some((one.provider, one.outcome.ok()?)));
        match good {
            Some((provider, claims)) => Shown {
                claims: Some(claims),
                provider: Some(provider),
                place: self.place,
            },
            None => Shown::default(),
        }
    }
}

/// Which of two says more: that of whoever the token is of.
fn telling(one: JwtRefusal, other: JwtRefusal) -> JwtRefusal {
    let rank = |why| match why {
        JwtRefusal::Missing => 0,
        JwtRefusal::Issuer => 1,
        _ => 2,
    };
    if rank(other) > rank(one) { other } else { one }
}

/// The providers that a requirement names. Its depth is bounded where it is read.
fn collect<'r>(requirement: &'r JwtRequirement, all: &mut Vec<(usize, &'r [Box<str>])>) {
    match requirement {
        JwtRequirement::Provider(index, audiences) => all.push((*index, audiences)),
        JwtRequirement::Any(parts) | JwtRequirement::All(parts) => {
            parts.iter().for_each(|part| collect(part, all));
        }
        JwtRequirement::AllowMissing | JwtRequirement::AllowMissingOrFailed => {}
    }
}
