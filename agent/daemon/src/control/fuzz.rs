//! What is asked at the control socket: whoever may only read changes nothing; every answer is one line of JSON.

use super::*;

pub(crate) fn request(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime without I/O");
    let mut unread = bytes;
    let Ok(asked) = runtime.block_on(read(&mut unread)) else { return };
    assert!(bytes.len() - unread.len() <= 512, "more was read than a request may have");
    if let Some((which, is_stopped)) = stop_of(&asked) {
        let line = stop_line(&which, is_stopped);
        let again = runtime.block_on(read(&mut line.as_bytes())).expect("a line of ours");
        assert_eq!(stop_of(&again), Some((which, is_stopped)));
    }
    for access in [Access::Reading, Access::All] {
        runtime.block_on(answered(asked.clone(), access));
    }
}

async fn answered(asked: Vec<String>, access: Access) {
    let (requests, mut loop_end) = mpsc::channel(1);
    let run_dir = PathBuf::from("/nonexistent/cutover");
    let desk = Desk { daemon: Handle::current(), requests, run_dir };
    let mut answer = Vec::new();
    let answering = desk.answer(&mut answer, access, asked.clone());
    // What reaches the loop is not answered, as by one that is stopping.
    let agent = async {
        let request = loop_end.recv().await;
        if let Some(request) = &request {
            assert!(access == Access::All || matches!(request, Request::Status(_)), "{asked:?}: {request:?}");
        }
    };
    let (result, ()) = tokio::join!(answering, agent);
    if result.is_ok() {
        let line = answer.strip_suffix(b"\n").expect("a whole line");
        assert!(!line.contains(&b'\n'));
        serde_json::from_slice::<serde_json::Value>(line).expect("JSON");
    }
}
