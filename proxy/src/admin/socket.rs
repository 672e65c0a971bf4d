//! The Unix socket of the control API, and who is on its other end.
//!
//! Rule: a socket file is taken over only when nobody answers on it.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
};

use axum::{extract::connect_info::Connected, serve::IncomingStream};
use tokio::net::{UnixListener, UnixStream};

/// The file name in `state_dir`.
pub const NAME: &str = "control.sock";

/// `sockaddr_un` has room for this many bytes of path.
const LONGEST_PATH: usize = 107;

/// Why the socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody answers on it.
    #[error("{0} is answered by another process: only one `bascule serve` can run on a state_dir")]
    InUse(PathBuf),
    /// Something else stands there.
    #[error("{0} is not a socket: move it away")]
    NotASocket(PathBuf),
    /// The path does not fit.
    #[error(
        "{path} has {length} bytes, a Unix socket's path may have {LONGEST_PATH}: choose a shorter state_dir"
    )]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Its length.
        length: usize,
    },
    /// What the system said.
    #[error("{path}: {error}")]
    System {
        /// The path.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// Opens the socket for its owner alone.
pub async fn bind(path: &Path) -> Result<UnixListener, SocketError> {
    let length = path.as_os_str().len();
    if length > LONGEST_PATH {
        return Err(SocketError::TooLong { path: path.to_owned(), length });
    }
    remove_stale(path).await?;
    let listener = UnixListener::bind(path).map_err(|e| system(path, e))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(|e| system(path, e))?;
    Ok(listener)
}

async fn remove_stale(path: &Path) -> Result<(), SocketError> {
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(system(path, e)),
        Ok(meta) if !meta.file_type().is_socket() => return Err(SocketError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    match UnixStream::connect(path).await {
        Ok(_) => Err(SocketError::InUse(path.to_owned())),
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|e| system(path, e))
        }
        Err(e) => Err(system(path, e)),
    }
}

fn system(path: &Path, error: io::Error) -> SocketError {
    SocketError::System { path: path.to_owned(), error }
}

/// Who is on the other end, as the kernel says.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// User id; `None` where the kernel did not say.
    pub uid: Option<u32>,
    /// Process id.
    pub pid: Option<i32>,
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        let credentials = stream.io().peer_cred().ok();
        Self { uid: credentials.map(|c| c.uid()), pid: credentials.and_then(|c| c.pid()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_taken_over_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        let first = bind(&path).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(bind(&path).await, Err(SocketError::InUse(_))));
        drop(first);
        bind(&path).await.unwrap();
    }

    #[tokio::test]
    async fn a_file_is_never_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        fs::write(&path, "precious").unwrap();
        assert!(matches!(bind(&path).await, Err(SocketError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn a_long_path_is_named_with_its_limit() {
        let path = PathBuf::from(format!("/{}/{NAME}", "x".repeat(120)));
        let error = bind(&path).await.unwrap_err().to_string();
        assert!(error.contains("107") && error.contains("state_dir"), "{error}");
    }
}
