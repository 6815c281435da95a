//! Replacing the root of a control plane that runs: by the process that it is in, or by `meshctl` through a socket of its state directory.
//!
//! Whoever owns the state directory owns the root's key, and nobody else may enter it: so that is who may ask. The socket has mode 0600 in
//! a directory of mode 0700, and the other end must be the directory's owner, or root. One question is one line of JSON, and so is its answer.

use std::sync::Arc;

use crate::ca::{Authority, RotationRefusal, RotationStatus, RotationStep};
use crate::serve::Connected;

/// The replacement of the root. Clones are the same.
#[derive(Clone, Debug)]
pub struct RootRotation {
    authority: Arc<Authority>,
    connected: Connected,
}

impl RootRotation {
    pub(crate) fn new(authority: Arc<Authority>, connected: Connected) -> Self {
        Self { authority, connected }
    }

    /// How it stands, and how many of the workloads that are connected know.
    pub fn status(&self) -> RotationStatus {
        let counts = self.connected.acknowledged(self.authority.phase_since());
        self.authority.rotation(counts)
    }

    /// Takes a step.
    ///
    /// # Errors
    ///
    /// When it does not follow on the phase, or the files cannot be written. Unless `force` says otherwise, also while a workload would be
    /// locked out by it: one that is connected and has not acknowledged the phase, or one with a certificate of a root that is to be
    /// forgotten.
    pub fn step(&self, step: RotationStep, force: bool) -> Result<RotationStatus, RotationRefusal> {
        let counts = self.connected.acknowledged(self.authority.phase_since());
        self.authority.rotate(step, &counts, force)?;
        Ok(self.status())
    }
}

#[cfg(unix)]
pub use socket::rotate_root;
#[cfg(unix)]
pub(crate) use socket::{listen, serve};

#[cfg(unix)]
mod socket {
    use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    use std::os::unix::net::UnixStream as Blocking;
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    use serde::{Deserialize, Serialize};
    use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{UnixListener, UnixStream};

    use super::RootRotation;
    use crate::ca::{RotationStatus, RotationStep};

    /// The socket of a state directory.
    const FILE: &str = "admin.sock";
    /// The longest question or answer, in bytes.
    const MAX_LINE_BYTES: u64 = 16 * 1024;
    /// How long either end waits for the other. They are asked one after the other.
    const ADMIN_TIMEOUT: Duration = Duration::from_secs(10);

    #[derive(Debug, Serialize, Deserialize)]
    struct Question {
        /// None: how does it stand?
        step: Option<RotationStep>,
        #[serde(default)]
        force: bool,
    }

    #[derive(Debug, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Answer {
        Status(RotationStatus),
        Refused(String),
    }

    /// Whom a state directory's control plane listens to: its owner.
    #[derive(Debug)]
    pub(crate) struct Socket {
        listener: UnixListener,
        owner: u32,
        path: PathBuf,
    }

    /// Opens the socket of a state directory. One that a control plane left behind that is gone is replaced.
    pub(crate) fn listen(state: &Path) -> io::Result<Socket> {
        let path = state.join(FILE);
        if Blocking::connect(&path).is_err() {
            drop(std::fs::remove_file(&path));
        }
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        let owner = std::fs::metadata(state)?.uid();
        Ok(Socket { listener, owner, path })
    }

    impl Drop for Socket {
        fn drop(&mut self) {
            drop(std::fs::remove_file(&self.path));
        }
    }

    /// Answers until it is dropped.
    pub(crate) async fn serve(socket: Socket, rotation: RootRotation) {
        loop {
            let Ok((stream, _)) = socket.listener.accept().await else {
                // No more file descriptors, which asking again does not give.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let is_owner = stream
                .peer_cred()
                .is_ok_and(|peer| [0, socket.owner].contains(&peer.uid()));
            if !is_owner {
                tracing::warn!(target: "audit", event = "admin_refused", "somebody else than the owner of the state directory");
                continue;
            }
            let answered = tokio::time::timeout(ADMIN_TIMEOUT, answer(stream, &rotation)).await;
            if let Ok(Err(error)) = answered {
                tracing::debug!(%error, "an administrator went away");
            }
        }
    }

    async fn answer(stream: UnixStream, rotation: &RootRotation) -> io::Result<()> {
        let (read, mut write) = stream.into_split();
        let mut line = String::new();
        let mut read = tokio::io::BufReader::new(read.take(MAX_LINE_BYTES));
        read.read_line(&mut line).await?;
        let answer = match serde_json::from_str(&line) {
            Err(_) => Answer::Refused("the question is not understood".to_owned()),
            Ok(Question { step: None, .. }) => Answer::Status(rotation.status()),
            Ok(Question {
                step: Some(step),
                force,
                ..
            }) => match rotation.step(step, force) {
                Ok(status) => Answer::Status(status),
                Err(why) => Answer::Refused(why.to_string()),
            },
        };
        let mut text = serde_json::to_vec(&answer)?;
        text.push(b'\n');
        write.write_all(&text).await
    }

    /// Asks the control plane that runs with a state directory to take a step; `None`: how the replacement of its root stands.
    ///
    /// # Errors
    ///
    /// When none runs, or it refuses ([`RotationRefusal`](crate::RotationRefusal)).
    pub fn rotate_root(state: &Path, step: Option<RotationStep>, force: bool) -> io::Result<RotationStatus> {
        let mut stream = Blocking::connect(state.join(FILE))?;
        stream.set_read_timeout(Some(ADMIN_TIMEOUT))?;
        stream.set_write_timeout(Some(ADMIN_TIMEOUT))?;
        let mut text = serde_json::to_vec(&Question { step, force })?;
        text.push(b'\n');
        stream.write_all(&text)?;
        let mut line = String::new();
        BufReader::new(stream.take(MAX_LINE_BYTES)).read_line(&mut line)?;
        match serde_json::from_str(&line)? {
            Answer::Status(status) => Ok(status),
            Answer::Refused(why) => Err(io::Error::other(why)),
        }
    }
}
