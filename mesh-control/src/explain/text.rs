//! An explanation as a person reads it: from the caller to the server, each step with the line that decided it.

use std::fmt;

use super::{Explanation, Origin, RouteTaken, Server, Share, Verdict};

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} calls {}", self.from, self.target)?;
        writeln!(f, "virtual host {}", self.virtual_host)?;
        match &self.route {
            None => f.write_str("  no route takes it: it is answered 404 (gRPC: UNIMPLEMENTED)"),
            Some(route) => route.fmt(f),
        }
    }
}

impl fmt::Display for RouteTaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.name.is_empty() { "" } else { " " };
        writeln!(f, "  route {}{name}{}", self.index, self.name)?;
        written(&self.origins, 4, f)?;
        if let Some(answer) = &self.answer {
            return write!(f, "    answered by the client itself: {answer}");
        }
        let limit = |limit: Option<u128>| limit.map_or_else(|| "no limit".to_owned(), |limit| format!("{limit} ms"));
        writeln!(f, "    timeout: {}", limit(self.timeout_ms))?;
        match self.retries {
            0 => writeln!(f, "    retries: none")?,
            retries => {
                let each = limit(self.per_try_timeout_ms);
                writeln!(
                    f,
                    "    retries: at most {retries}, each with {each}, on {}",
                    self.retry_on
                )?;
            }
        }
        for (what, each) in [("fault", &self.faults), ("copies", &self.mirrors)] {
            each.iter().try_for_each(|one| writeln!(f, "    {what}: {one}"))?;
        }
        let last = self.shares.len().saturating_sub(1);
        for (index, share) in self.shares.iter().enumerate() {
            share.fmt(f)?;
            if index < last {
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "    {} of {} to {}", self.weight, self.total, self.cluster)?;
        written(&self.origins, 6, f)?;
        write!(f, "      called by {}", self.called_by)?;
        if !self.balancing.is_empty() {
            write!(f, ", chosen by {}", self.balancing)?;
        }
        for server in &self.endpoints {
            writeln!(f)?;
            server.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "      {} weight {}: {}", self.address, self.weight, self.verdict)?;
        for origin in self.origin.iter().chain(&self.decided_by) {
            write!(f, "\n        {origin}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Served => f.write_str("served"),
            Self::Refused(why) => write!(f, "refused, {why}"),
            Self::Asked(whom) => write!(f, "{whom} is asked"),
            Self::Unknown => f.write_str("outside of the mesh: whether it serves the request is not known"),
        }
    }
}

fn written(origins: &[Origin], indent: usize, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    origins
        .iter()
        .try_for_each(|origin| writeln!(f, "{:indent$}{origin}", ""))
}
