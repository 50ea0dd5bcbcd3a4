# Each file of cases is one test; see tests/cli/run for their form.
file(GLOB case_files CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/*.cases)
foreach(case_file ${case_files})
  get_filename_component(case_name ${case_file} NAME_WE)
  add_test(NAME cli.${case_name} COMMAND ${CMAKE_CURRENT_LIST_DIR}/run $<TARGET_FILE_DIR:ebb_command> ${case_file})
  set_tests_properties(cli.${case_name} PROPERTIES LABELS cli TIMEOUT 600 SKIP_RETURN_CODE 77)
endforeach()

add_test(NAME cli.install COMMAND ${CMAKE_CURRENT_LIST_DIR}/install.sh ${CMAKE_BINARY_DIR} ${PROJECT_SOURCE_DIR}
  ${CMAKE_COMMAND} ${CMAKE_C_COMPILER} "${EBB_SANITIZE}")
set_tests_properties(cli.install PROPERTIES LABELS cli TIMEOUT 600)
